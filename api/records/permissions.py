"""Permissions on checkpoints: which other projects may download one, and begin from it."""

from collections.abc import Sequence

from sqlalchemy import ForeignKey, String, UniqueConstraint, delete, or_, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, UnixTime, db_now, insert
from api.records.models import Checkpoint, Model
from api.records.pages import Page, paginate
from api.records.projects import Project
from api.spec.ids import new_id


class Permission(Base):
    __tablename__ = "checkpoint_permissions"
    __table_args__ = (UniqueConstraint("checkpoint", "project_id"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    checkpoint: Mapped[str] = mapped_column(String(256))
    """The checkpoint's model id, or that of a finished model. A name is never given twice, so that what is granted on
    one that has been deleted grants nothing."""
    owner_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    """The project that made the checkpoint."""
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    """The project that may use it."""
    created_at: Mapped[float] = mapped_column(UnixTime)


def granted(session: Session, project_id: str, checkpoint_model_id: str) -> bool:
    """Whether this project was given the use of another's checkpoint or model."""
    return owner_for(session, project_id, checkpoint_model_id) != project_id


def owner_for(session: Session, project_id: str, model_id: str) -> str:
    """Under which project this one may read the model: another that granted it, else its own."""
    query = select(Permission.owner_id).where(Permission.checkpoint == model_id, Permission.project_id == project_id)
    return session.scalars(query).one_or_none() or project_id


def owns(session: Session, project_id: str, model_id: str) -> bool:
    found = session.scalar(select(Model.id).where(Model.id == model_id, Model.project_id == project_id))
    return found is not None or (
        session.scalar(
            select(Checkpoint.id).where(Checkpoint.model_id == model_id, Checkpoint.project_id == project_id)
        )
        is not None
    )


def projects_named(session: Session, given: Sequence[str]) -> dict[str, str]:
    """The ids of those of these projects that there are, by the id or the name that was given. Where the one's name is
    the other's id, the id is meant."""
    query = select(Project.id, Project.name).where(or_(Project.id.in_(given), Project.name.in_(given)))
    found = session.execute(query).all()
    by_either = {row.name: row.id for row in found} | {row.id: row.id for row in found}
    return {key: by_either[key] for key in given if key in by_either}


def grant(session: Session, owner_id: str, checkpoint: str, project_id: str) -> Permission:
    """The permission, new or as it already was, or as another request gives it at the same time."""
    values = {"checkpoint": checkpoint, "owner_id": owner_id, "project_id": project_id}
    statement = insert(session, Permission).values(id=new_id("cp_"), created_at=db_now(), **values)
    found = statement.on_conflict_do_update(
        index_elements=[Permission.checkpoint, Permission.project_id],
        set_={"owner_id": owner_id},  # nothing changes, and the row is told
    )
    return session.scalars(found.returning(Permission)).one()


def page(
    session: Session,
    owner_id: str,
    checkpoint: str,
    *,
    project_id: str | None,
    after: str | None,
    limit: int,
    newest_first: bool,
) -> Page[Permission]:
    query = select(Permission).where(Permission.checkpoint == checkpoint, Permission.owner_id == owner_id)
    if project_id is not None:
        query = query.where(Permission.project_id == project_id)
    return paginate(
        session,
        query,
        order=(Permission.created_at, Permission.id),
        id_column=Permission.id,
        after=after,
        limit=limit,
        newest_first=newest_first,
    )


def revoke(session: Session, owner_id: str, checkpoint: str, permission_id: str) -> bool:
    """Whether there was such a permission."""
    done = session.execute(
        delete(Permission)
        .where(Permission.id == permission_id, Permission.checkpoint == checkpoint, Permission.owner_id == owner_id)
        .returning(Permission.id)
    )
    return done.first() is not None


def forget_of(session: Session, model_ids: Sequence[str]) -> None:
    """With the models that are deleted go the permissions on them."""
    session.execute(delete(Permission).where(Permission.checkpoint.in_(model_ids)))
