"""Events of jobs, for their users. Each event is written in the transaction of the change that it describes."""

from array import array
from collections.abc import Iterator, Sequence

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    and_,
    delete,
    func,
    select,
    text,
    tuple_,
)
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, UnixTime, db_now, is_sqlite
from api.records.pages import Listing, Page, UnknownCursor, paginate
from api.spec.fields import JsonObject
from api.spec.ids import new_id

BATCH = 1000
"""Number of events that one statement reads or deletes, at most."""
MAX_SEQ = 2**63 - 1


_MESSAGES = text("type = 'message'")


class Event(Base):
    __tablename__ = "events"
    __table_args__ = (
        Index("ix_events_job_id_seq", "job_id", "seq"),
        Index(
            "ix_events_messages", "job_id", "seq", sqlite_where=_MESSAGES, postgresql_where=_MESSAGES
        ),  # a job has a few messages among up to a million metrics
    )

    seq: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    """Sequence number: the order of events. Within one job it is also the order of their commits, because every writer
    has locked the job's row."""
    id: Mapped[str] = mapped_column(String(64), unique=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[float] = mapped_column(UnixTime)
    level: Mapped[str] = mapped_column(String(8))
    """info, warn or error."""
    message: Mapped[str] = mapped_column(Text)
    type: Mapped[str] = mapped_column(String(16))
    """message or metrics."""
    data: Mapped[JsonObject | None]


LISTING = Listing(Event.job_id, Event.id, (Event.job_id, Event.seq))
_ON_SQLITE = Listing(Event.job_id, Event.id, (Event.seq,))


def add_event(
    session: Session,
    job_id: str,
    message: str,
    *,
    level: str = "info",
    type: str = "message",
    data: JsonObject | None = None,
) -> int:
    """Add an event and return its sequence number. The metrics of steps are added by `charted_steps.add`."""
    event = Event(
        id=new_id("ftevent-"),
        job_id=job_id,
        created_at=db_now(),
        level=level,
        message=message.replace("\0", "\N{REPLACEMENT CHARACTER}"),  # NUL, which PostgreSQL cannot store
        type=type,
        data=data,
    )
    session.add(event)
    session.flush()  # one by one, so that sequence numbers follow the order of the calls
    return event.seq


def of_job(session: Session, job_id: str, after: int) -> ColumnElement[bool]:
    """Return the condition that an event belongs to the job and comes after this sequence number.

    Sort the result by (job_id, seq), not by seq alone. To sort by seq alone, PostgreSQL may read the primary key, which
    has the events of all jobs. For a job with many events it does, and a page of an old job then reads all newer events
    of other jobs. Only the index on (job_id, seq) has the matching events in the order (job_id, seq).

    SQLite uses only the first column of a tuple as a bound, and would read all events of the job up to the bound.
    """
    if is_sqlite(session):
        return and_(Event.job_id == job_id, Event.seq > after)
    position = tuple_(Event.job_id, Event.seq)
    return and_(position > tuple_(job_id, after), position <= tuple_(job_id, MAX_SEQ))


def page(session: Session, job_id: str, *, messages_only: bool = False, after: str | None, limit: int) -> Page[Event]:
    """Return a page of the job's events, newest first. For a job without events the page is empty, whatever `after` is.

    All events of a job are deleted together, without a record of their positions (api.records.pages.DeletedRow): a job
    may have a million of them.
    """
    # See of_job.
    listing = LISTING
    start: tuple[object, ...] = (job_id, MAX_SEQ)
    query = select(Event).where(tuple_(Event.job_id, Event.seq) > tuple_(job_id, 0))
    if is_sqlite(session):
        listing, start, query = _ON_SQLITE, (MAX_SEQ,), select(Event).where(Event.job_id == job_id)
    try:
        return paginate(
            session,
            listing,
            job_id,
            query.where(_MESSAGES) if messages_only else query,
            start=start,
            after=after,
            limit=limit,
        )
    except UnknownCursor:
        if session.scalar(select(Event.seq).where(Event.job_id == job_id).limit(1)) is not None:
            raise
        return Page([], has_more=False)


def delete_of(session: Session, job_ids: Sequence[str]) -> None:
    """Delete up to BATCH events of these jobs."""
    some = select(Event.seq).where(Event.job_id.in_(job_ids)).limit(BATCH)
    session.execute(delete(Event).where(Event.seq.in_(some)))


def metrics_after(session: Session, job_id: str, seq: int, limit: int | None = None) -> Sequence[Event]:
    """Return the job's next metrics events after this sequence number, oldest first, at most `limit` (by default
    BATCH)."""
    query = select(Event).where(of_job(session, job_id, seq), Event.type == "metrics")
    return session.scalars(query.order_by(Event.job_id, Event.seq).limit(limit or BATCH)).all()


def newest_metrics(session: Session, job_id: str) -> Sequence[int]:
    """Return the sequence numbers of the job's metrics events, sorted by step. If a step was trained again, only its
    newest event is included."""
    step = Event.data["step"].as_integer()
    query = select(func.max(Event.seq)).where(Event.job_id == job_id, Event.type == "metrics", step.is_not(None))
    return array("q", session.scalars(query.group_by(step).order_by(step)))


def metrics_at(session: Session, numbers: Sequence[int]) -> list[JsonObject]:
    """Return the data of the events with these sequence numbers, in the order of `numbers`. Events that were
    deleted in the meantime are missing."""
    rows = session.execute(select(Event.seq, Event.data).where(Event.seq.in_(list(numbers))))
    found: dict[int, JsonObject] = {seq: data for seq, data in rows if data is not None}
    return [found[number] for number in numbers if number in found]


def batches_of(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """Yield the numbers in batches for `metrics_at`."""
    for start in range(0, len(numbers), BATCH):
        yield numbers[start : start + BATCH]
