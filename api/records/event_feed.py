"""What those who follow a job look at: its newest events, and whether there will be more."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.records.events import Event
from api.records.jobs import Job
from api.spec.lifecycle import FINAL


def position(session: Session, job_id: str, event_id: str) -> int | None:
    """The number of this event of the job."""
    return session.scalar(select(Event.seq).where(Event.id == event_id, Event.job_id == job_id))


def read(session: Session, job_id: str, after: int, limit: int) -> tuple[Sequence[Event], bool]:
    """The job's events after this number, oldest first; and whether the job had ended before they were read.

    What a job tells is written in the transaction that ends it, or before. After it only a hub or a tracker may still
    be told of, which nobody waits for.
    """
    ended = session.scalar(select(Job.status).where(Job.id == job_id)) in FINAL
    query = select(Event).where(Event.job_id == job_id, Event.seq > after).order_by(Event.seq).limit(limit)
    return session.scalars(query).all(), ended


def newest(session: Session, job_ids: Sequence[str]) -> dict[str, int]:
    """The number of the newest event of each of these jobs. The index has it, however many there are."""
    last = select(func.max(Event.seq)).where(Event.job_id == Job.id).scalar_subquery()
    rows = session.execute(select(Job.id, last).where(Job.id.in_(job_ids)))
    return {job_id: seq or 0 for job_id, seq in rows}
