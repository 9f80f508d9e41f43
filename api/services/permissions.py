"""Checkpoint permissions: a project gives others the use of what it trained, for download and as a base."""

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
    """Newest first. A project, given by its id or its name, that had the permission keeps it."""
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
            for project_id in sorted(set(known.values()))  # two requests at once wait for each other, not in a circle
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
    if caller.scope != "admin":
        raise Forbidden(
            "Permissions are given and taken back with a key of scope 'admin' of the project that owns them"
        )
