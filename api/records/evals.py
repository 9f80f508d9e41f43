"""Evals. An eval is a schema of items, and the criteria by which its runs grade them. The runs are in
api.records.eval_runs."""

from typing import Literal

from sqlalchemy import ColumnElement, ForeignKey, String, Text, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, UnixTime, db_now
from api.records.pages import Listing, Page, paginate
from api.spec.fields import JsonObject

RECENT = 10
"""Number of newest evals among which `newest_like` searches."""

OrderBy = Literal["created_at", "updated_at"]


class Eval(Base):
    __tablename__ = "evals"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str] = mapped_column(Text)
    pairs: Mapped[dict[str, str] | None] = mapped_column("metadata")
    data_source: Mapped[JsonObject]
    """An api.spec.evals.data_source.CustomDataSource."""
    criteria: Mapped[list[JsonObject]]
    """A list of api.spec.evals.criteria.Criterion."""
    created_at: Mapped[float] = mapped_column(UnixTime)
    updated_at: Mapped[float] = mapped_column(UnixTime)
    deleted_at: Mapped[float | None] = mapped_column(UnixTime)
    """Time at which a user deleted the eval. The row remains until the last run of the eval is gone."""


_KEPT = (Eval.created_at, Eval.id, Eval.updated_at)
LISTING = Listing(Eval.project_id, Eval.id, (Eval.created_at, Eval.id), _KEPT)
BY_UPDATE = Listing(Eval.project_id, Eval.id, (Eval.updated_at, Eval.id), _KEPT)


def get(session: Session, project_id: str, eval_id: str) -> Eval | None:
    return session.scalars(select(Eval).where(Eval.id == eval_id, *_visible(project_id))).one_or_none()


def lock(session: Session, project_id: str, eval_id: str) -> Eval | None:
    """Return the eval, locked until this transaction ends."""
    query = select(Eval).where(Eval.id == eval_id, *_visible(project_id)).with_for_update()
    return session.scalars(query.execution_options(populate_existing=True)).one_or_none()


def count(session: Session, project_id: str) -> int:
    return session.scalar(select(func.count()).select_from(Eval).where(*_visible(project_id))) or 0


def page(
    session: Session, project_id: str, *, after: str | None, limit: int, newest_first: bool, order_by: OrderBy
) -> Page[Eval]:
    listing = LISTING if order_by == "created_at" else BY_UPDATE
    query = select(Eval).where(*_visible(project_id))
    return paginate(session, listing, project_id, query, after=after, limit=limit, newest_first=newest_first)


def newest_like(session: Session, row: Eval, within_s: float) -> Eval | None:
    """Return the project's newest eval of the last `within_s` seconds that an equal request created."""
    recent = select(Eval).where(*_visible(row.project_id), Eval.created_at > db_now() - within_s)
    names = ("name", "pairs", "data_source", "criteria")
    found = session.scalars(recent.order_by(Eval.created_at.desc()).limit(RECENT))
    return next((each for each in found if all(getattr(each, name) == getattr(row, name) for name in names)), None)


def touch(session: Session, row: Eval) -> None:
    """Set `updated_at` to the current time, after a change."""
    row.updated_at = db_now()
    session.flush()
    session.refresh(row)


def remove(session: Session, eval_id: str) -> None:
    LISTING.delete(session, Eval.id == eval_id)


def _visible(project_id: str) -> tuple[ColumnElement[bool], ...]:
    return Eval.project_id == project_id, Eval.deleted_at.is_(None)
