"""Dependencies between jobs: in a pipeline, the job of one stage may need the model of another."""

from collections.abc import Sequence

from sqlalchemy import ForeignKey, String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base


class Dependency(Base):
    __tablename__ = "job_dependencies"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    needs_job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True, index=True)
    stage: Mapped[str] = mapped_column(String(16))
    """The stage of work (api.spec.lifecycle.Stage) that waits for the other job. Earlier stages of work do not wait."""


def of_jobs(session: Session, job_ids: Sequence[str]) -> Sequence[Dependency]:
    """Return the dependencies of these jobs on other jobs."""
    return session.scalars(select(Dependency).where(Dependency.job_id.in_(job_ids))).all()


def waiting_for(session: Session, job_id: str) -> Sequence[Dependency]:
    """Return the dependencies of other jobs on this job."""
    return session.scalars(select(Dependency).where(Dependency.needs_job_id == job_id)).all()


def direct_dependents(session: Session, job_ids: Sequence[str]) -> set[str]:
    """Return the ids of the jobs that depend directly on one of these jobs."""
    return set(session.scalars(select(Dependency.job_id).where(Dependency.needs_job_id.in_(job_ids))))


def all_dependents(session: Session, job_id: str) -> set[str]:
    """Return the ids of all jobs that depend on this job, directly or through other jobs."""
    dependents: set[str] = set()
    newest = direct_dependents(session, [job_id])
    while newest:
        dependents |= newest
        newest = direct_dependents(session, sorted(newest)) - dependents
    return dependents
