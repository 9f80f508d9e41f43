"""Which jobs wait for which: the stages of a pipeline."""

from collections.abc import Sequence

from sqlalchemy import ForeignKey, String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base


class Dependency(Base):
    __tablename__ = "job_dependencies"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    needs_job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True, index=True)
    stage: Mapped[str] = mapped_column(String(16))
    """The stage of work on the job (api.spec.lifecycle.Stage) that waits: what comes before it may be done at once."""


def of(session: Session, job_ids: Sequence[str]) -> Sequence[Dependency]:
    return session.scalars(select(Dependency).where(Dependency.job_id.in_(job_ids))).all()


def on(session: Session, job_id: str) -> Sequence[Dependency]:
    """Who waits for this job, and with what."""
    return session.scalars(select(Dependency).where(Dependency.needs_job_id == job_id)).all()


def direct(session: Session, job_ids: Sequence[str]) -> set[str]:
    """Ids of the jobs that need one of these."""
    return set(session.scalars(select(Dependency.job_id).where(Dependency.needs_job_id.in_(job_ids))))


def transitive(session: Session, job_id: str) -> set[str]:
    """Ids of all jobs that cannot end well without this one."""
    found: set[str] = set()
    newest = direct(session, [job_id])
    while newest:
        found |= newest
        newest = direct(session, sorted(newest)) - found
    return found
