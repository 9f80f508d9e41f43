"""The metadata of jobs, as an index that finds the jobs with a pair of key and value, newest first."""

from collections.abc import Mapping
from typing import TypeVar

from sqlalchemy import ColumnElement, ForeignKey, Select, String, and_, exists
from sqlalchemy.orm import InstrumentedAttribute, Mapped, Session, aliased, mapped_column

from api.records.base import Base, UnixTime

T = TypeVar("T")

NONE = ("", "")
"""The pair of a job without metadata. Requests cannot ask for an empty key, so it is not used otherwise."""


class JobPair(Base):
    __tablename__ = "job_metadata"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(512), primary_key=True)
    created_at: Mapped[float] = mapped_column(UnixTime, primary_key=True)
    """The time of the job's creation. Pages are read in the order of the primary key."""
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)


ORDER = (JobPair.created_at, JobPair.job_id)
"""The order of the jobs that `only_with` selects. It equals their order by creation and id, but an index has it."""


def add(session: Session, project_id: str, job_id: str, created_at: float, pairs: Mapping[str, str]) -> None:
    """Store a job's metadata."""
    facts = {"project_id": project_id, "created_at": created_at, "job_id": job_id}
    for key, value in pairs.items() or [NONE]:
        if key or not pairs:
            session.add(JobPair(key=key, value=value, **facts))


def only_with(
    query: Select[T], job_id: InstrumentedAttribute[str], project_id: str, pairs: Mapping[str, str]
) -> Select[T]:
    """Return the query, which selects jobs, narrowed to the project's jobs that have all these pairs, or that have no
    metadata if `pairs` is empty. `job_id`: the column with the job's id."""
    first, *others = pairs.items() or [NONE]
    query = query.join(JobPair, JobPair.job_id == job_id).where(_is(JobPair, project_id, *first))
    for pair in others:
        other = aliased(JobPair)
        same_job = and_(other.created_at == JobPair.created_at, other.job_id == JobPair.job_id)
        query = query.where(exists().where(_is(other, project_id, *pair), same_job))
    return query


def _is(pair: type[JobPair], project_id: str, key: str, value: str) -> ColumnElement[bool]:
    return and_(pair.project_id == project_id, pair.key == key, pair.value == value)
