"""Permissions on checkpoints: the other projects that may download a checkpoint and continue its training."""

from collections.abc import Sequence

from sqlalchemy import ForeignKey, String, UniqueConstraint, and_, delete, or_, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, UnixTime, db_now, insert
from api.records.models import Checkpoint, Model
from api.records.pages import Listing, Page, paginate
from api.records.projects import Project
from api.spec.ids import new_id


class Permission(Base):
    __tablename__ = "checkpoint_permissions"
    __table_args__ = (UniqueConstraint("checkpoint", "project_id"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    checkpoint: Mapped[str] = mapped_column(String(256))
    """Model id of the checkpoint or of a finished model. Ids are never reused, so that permissions on a deleted model
    grant nothing."""
    owner_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    """The project that the checkpoint belongs to."""
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    """The project that may use the checkpoint."""
    created_at: Mapped[float] = mapped_column(UnixTime)


LISTING = Listing(Permission.checkpoint, Permission.id, (Permission.created_at, Permission.id))


def exist_on(session: Session, checkpoint_model_id: str) -> bool:
    """Return whether the owner of the checkpoint or model has granted its use to any project."""
    return (
        session.scalar(select(Permission.id).where(Permission.checkpoint == checkpoint_model_id).limit(1)) is not None
    )


def owner_for(session: Session, project_id: str, model_id: str) -> str:
    """Return the project in which this project finds the model: the one that granted it a permission, else itself."""
    query = select(Permission.owner_id).where(Permission.checkpoint == model_id, Permission.project_id == project_id)
    return session.scalars(query).one_or_none() or project_id


def owns(session: Session, project_id: str, model_id: str) -> bool:
    """Return whether the project has a model or checkpoint of this id."""
    model = select(Model.id).where(Model.id == model_id, Model.project_id == project_id)
    checkpoint = select(Checkpoint.id).where(Checkpoint.model_id == model_id, Checkpoint.project_id == project_id)
    return session.scalar(model) is not None or session.scalar(checkpoint) is not None


def projects_named(session: Session, ids_or_names: Sequence[str]) -> dict[str, str]:
    """Return {given id or name: project id}, without those that match no project.

    If a given text is the id of one project and the name of another, the id wins.
    """
    query = select(Project.id, Project.name).where(or_(Project.id.in_(ids_or_names), Project.name.in_(ids_or_names)))
    rows = session.execute(query).all()
    by_either = {row.name: row.id for row in rows} | {row.id: row.id for row in rows}
    return {key: by_either[key] for key in ids_or_names if key in by_either}


def grant(session: Session, owner_id: str, checkpoint: str, project_id: str) -> Permission:
    """Return the permission. Create it if it does not exist. Concurrent calls return the same row."""
    values = {"checkpoint": checkpoint, "owner_id": owner_id, "project_id": project_id}
    statement = insert(session, Permission).values(id=new_id("cp_"), created_at=db_now(), **values)
    upsert = statement.on_conflict_do_update(
        index_elements=[Permission.checkpoint, Permission.project_id],
        set_={"owner_id": owner_id},  # the same value: only an inserted or updated row is returned
    )
    return session.scalars(upsert.returning(Permission)).one()


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
        LISTING,
        checkpoint,
        query,
        after=after,
        limit=limit,
        newest_first=newest_first,
    )


def revoke(session: Session, owner_id: str, checkpoint: str, permission_id: str) -> bool:
    """Delete the permission. Return False if it does not exist."""
    named = and_(Permission.id == permission_id, Permission.checkpoint == checkpoint, Permission.owner_id == owner_id)
    return LISTING.delete(session, named) > 0


def delete_for_models(session: Session, model_ids: Sequence[str]) -> None:
    """Delete the permissions on deleted models."""
    session.execute(delete(Permission).where(Permission.checkpoint.in_(model_ids)))
