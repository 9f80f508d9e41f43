"""Checkpoint permissions: the right of other projects to download a checkpoint or model and to train on it."""

from collections.abc import Sequence

from api.context import Caller, Context
from api.errors import Forbidden, InvalidRequest, NotFound
from api.records import permissions
from api.records.pages import Page
from api.records.permissions import Permission
from api.services.models import NoSuchModel


class NoSuchPermission(NotFound):
    param = "permission_id"

    def __init__(self, permission_id: str) -> None:
        super().__init__(f"No such permission on this checkpoint: {permission_id[:64]}")


def grant(context: Context, caller: Caller, checkpoint: str, project_ids: Sequence[str]) -> list[Permission]:
    """Give projects, by their ids or names, a permission on the checkpoint. Return the permissions, newest first.

    A project that already has the permission keeps it.
    """
    _check_admin(caller)
    with context.database.write() as session:
        if not permissions.owns(session, caller.project_id, checkpoint):
            raise NoSuchModel(checkpoint)
        known = permissions.projects_named(session, project_ids)
        for project_id in project_ids:
            if project_id not in known:
                raise InvalidRequest(f"There is no project '{project_id[:64]}'", param="project_ids")
        given = [
            permissions.grant(session, caller.project_id, checkpoint, project_id)
            for project_id in sorted(set(known.values()))  # a fixed order, so that concurrent requests do not deadlock
        ]
    return sorted(given, key=lambda permission: (permission.created_at, permission.id), reverse=True)


def page(
    context: Context,
    caller: Caller,
    checkpoint: str,
    *,
    project_id: str | None,
    after: str | None,
    limit: int,
    newest_first: bool,
) -> Page[Permission]:
    with context.database.read() as session:
        if not permissions.owns(session, caller.project_id, checkpoint):
            raise NoSuchModel(checkpoint)
        return permissions.page(
            session,
            caller.project_id,
            checkpoint,
            project_id=project_id,
            after=after,
            limit=limit,
            newest_first=newest_first,
        )


def revoke(context: Context, caller: Caller, checkpoint: str, permission_id: str) -> None:
    _check_admin(caller)
    with context.database.write() as session:
        if not permissions.revoke(session, caller.project_id, checkpoint, permission_id):
            raise NoSuchPermission(permission_id)


def _check_admin(caller: Caller) -> None:
    if not caller.is_admin:
        raise Forbidden(
            "Granting and revoking permissions needs a key of scope 'admin' of the project that owns the checkpoint"
        )
