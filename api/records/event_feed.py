"""Queries for event streams: the events of a job after a given one, and whether more will follow."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.records.events import Event, of_job
from api.records.jobs import Job
from api.spec.lifecycle import FINAL


def sequence_number(session: Session, job_id: str, event_id: str) -> int | None:
    """Return the sequence number of the job's event with this id; None if there is none."""
    return session.scalar(select(Event.seq).where(Event.id == event_id, Event.job_id == job_id))


def read(session: Session, job_id: str, after: int, limit: int) -> tuple[Sequence[Event], bool]:
    """Return the job's events after this sequence number, oldest first, and whether the job had ended before the query.

    All events of the job itself are written before the job ends, or in the transaction that ends it. Later events
    concern only deliveries to a hub or a tracker; streams do not wait for them.
    """
    ended = session.scalar(select(Job.status).where(Job.id == job_id)) in FINAL
    query = select(Event).where(of_job(session, job_id, after)).order_by(Event.job_id, Event.seq).limit(limit)
    return session.scalars(query).all(), ended


def newest_numbers(session: Session, job_ids: Sequence[str]) -> dict[str, int]:
    """Return the sequence number of each job's newest event; 0 for a job without events.

    The query costs one lookup in the index for each job.
    """
    last = select(func.max(Event.seq)).where(Event.job_id == Job.id).scalar_subquery()
    rows = session.execute(select(Job.id, last).where(Job.id.in_(job_ids)))
    return {job_id: seq or 0 for job_id, seq in rows}
