from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from api.http.deps import After, Ctx, Who
from api.http.fair_route import FairRoute
from api.schemas.common import Deleted
from api.schemas.permissions import PermissionList
from api.services import permissions
from api.spec.fields import NulFreeModel

router = APIRouter(prefix="/fine_tuning/checkpoints", tags=["fine-tuning"], route_class=FairRoute)

# Checkpoint ids may contain slashes, which some clients do not encode: hence `:path`.


class Grant(NulFreeModel):
    project_ids: Annotated[list[str], Field(min_length=1, max_length=100)]
    """Ids or names of projects."""


@router.post("/{checkpoint:path}/permissions")
def create_permissions(checkpoint: str, grant: Grant, context: Ctx, caller: Who) -> PermissionList:
    """Permit other projects to download a checkpoint or a published model and to train on it.

    This requires an admin key of the project that owns the checkpoint or model.
    """
    return PermissionList.of(permissions.grant(context, caller, checkpoint, grant.project_ids), has_more=False)


@router.get("/{checkpoint:path}/permissions")
def list_permissions(
    checkpoint: str,
    context: Ctx,
    caller: Who,
    project_id: str | None = None,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 10,
    order: Literal["ascending", "descending"] = "descending",
) -> PermissionList:
    """List the permissions on a checkpoint of this project, newest first."""
    page = permissions.page(
        context,
        caller,
        checkpoint,
        project_id=project_id,
        after=after,
        limit=limit,
        newest_first=order == "descending",
    )
    return PermissionList.of(page.data, page.has_more)


@router.delete("/{checkpoint:path}/permissions/{permission_id}")
def delete_permission(checkpoint: str, permission_id: str, context: Ctx, caller: Who) -> Deleted:
    """Revoke a permission. Jobs that already use the checkpoint continue. This requires an admin key."""
    permissions.revoke(context, caller, checkpoint, permission_id)
    return Deleted(id=permission_id, object="checkpoint.permission")
