"""Events of jobs for their users. Each is written in the transaction of the change that it describes."""

from collections.abc import Sequence

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, Text, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, UnixTime, db_now
from api.records.pages import Page, paginate
from api.spec.fields import JsonObject
from api.spec.ids import new_id


class Event(Base):
    __tablename__ = "events"
    __table_args__ = (Index("ix_events_job_id_seq", "job_id", "seq"),)

    seq: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    """Sequence number: the order of events. Within one job it is also the order of their commits, because every writer
    holds the job's row."""
    id: Mapped[str] = mapped_column(String(64), unique=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[float] = mapped_column(UnixTime)
    level: Mapped[str] = mapped_column(String(8))
    """info, warn or error."""
    message: Mapped[str] = mapped_column(Text)
    type: Mapped[str] = mapped_column(String(16))
    """message or metrics."""
    data: Mapped[JsonObject | None]


def add_event(
    session: Session,
    job_id: str,
    message: str,
    *,
    level: str = "info",
    type: str = "message",
    data: JsonObject | None = None,
) -> None:
    session.add(
        Event(
            id=new_id("ftevent-"),
            job_id=job_id,
            created_at=db_now(),
            level=level,
            message=message,
            type=type,
            data=data,
        )
    )
    session.flush()  # one by one, so that sequence numbers follow the order of the calls


def page(session: Session, job_id: str, *, after: str | None, limit: int) -> Page[Event]:
    return paginate(
        session,
        select(Event).where(Event.job_id == job_id),
        order=(Event.seq,),
        id_column=Event.id,
        after=after,
        limit=limit,
    )


def metrics_after(session: Session, job_id: str, seq: int) -> Sequence[Event]:
    """Return the job's metrics events after this sequence number, oldest first."""
    query = select(Event).where(Event.job_id == job_id, Event.type == "metrics", Event.seq > seq)
    return session.scalars(query.order_by(Event.seq)).all()


def metrics_of(session: Session, job_id: str) -> list[JsonObject]:
    """Return the data of the job's metrics events by step. A step that was trained again has its newest metrics."""
    rows = session.scalars(
        select(Event.data).where(Event.job_id == job_id, Event.type == "metrics").order_by(Event.seq)
    )
    by_step = {data["step"]: data for data in rows if data}
    return [by_step[step] for step in sorted(by_step)]
