"""Permissions on checkpoints."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import BaseModel

from api.records.permissions import Permission
from api.schemas.common import ends


class PermissionObject(BaseModel):
    id: str
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    created_at: int
    project_id: str
    """The project that may use the checkpoint."""

    @classmethod
    def of(cls, permission: Permission) -> Self:
        return cls(id=permission.id, created_at=int(permission.created_at), project_id=permission.project_id)


class PermissionList(BaseModel):
    object: Literal["list"] = "list"
    data: list[PermissionObject]
    has_more: bool
    first_id: str | None
    last_id: str | None

    @classmethod
    def of(cls, rows: Sequence[Permission], has_more: bool) -> Self:
        return cls(data=[PermissionObject.of(row) for row in rows], has_more=has_more, **ends(rows))
