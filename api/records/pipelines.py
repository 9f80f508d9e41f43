"""Pipelines: jobs that were created together, each of which may start from the model of an earlier one."""

from sqlalchemy import ForeignKey, String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, UnixTime
from api.records.pages import Listing, Page, paginate
from api.spec.job import PipelineStage


class Pipeline(Base):
    __tablename__ = "pipelines"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    model: Mapped[str] = mapped_column(String(256))
    """The model that the first stage starts from."""
    suffix: Mapped[str | None] = mapped_column(String(64))
    pairs: Mapped[dict[str, str] | None] = mapped_column("metadata")
    stages: Mapped[list[PipelineStage]]
    created_at: Mapped[float] = mapped_column(UnixTime)


LISTING = Listing(Pipeline.project_id, Pipeline.id, (Pipeline.created_at, Pipeline.id))


def get(session: Session, project_id: str, pipeline_id: str) -> Pipeline | None:
    return session.scalars(
        select(Pipeline).where(Pipeline.id == pipeline_id, Pipeline.project_id == project_id)
    ).one_or_none()


def page(session: Session, project_id: str, *, after: str | None, limit: int) -> Page[Pipeline]:
    """Return a page of the project's pipelines, newest first."""
    return paginate(
        session,
        LISTING,
        project_id,
        select(Pipeline).where(Pipeline.project_id == project_id),
        after=after,
        limit=limit,
    )
