"""Batches: many completion requests in one file, answered in the background.

A worker takes a batch at its `due_at` (api.records.item_queue): to validate it, to end it when its completion window is
over, or to write the files with its results. The requests of a batch are in api.records.batch_items.
"""

from collections.abc import Sequence

from sqlalchemy import BigInteger, Integer, String, func, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records import webhook_deliveries
from api.records.base import Base, UnixTime, db_now
from api.records.item_queue import Work
from api.records.pages import Listing, Page, paginate
from api.spec.batch import BATCH_FINAL, TRANSITIONS, BatchStatus
from api.spec.fields import JsonObject


class Batch(Work, Base):
    __tablename__ = "batches"

    endpoint: Mapped[str] = mapped_column(String(64))
    input_file: Mapped[str] = mapped_column(String(64), index=True)
    output_file: Mapped[str | None] = mapped_column(String(64))
    error_file: Mapped[str | None] = mapped_column(String(64))
    output_expires_s: Mapped[int | None] = mapped_column(Integer)
    """Seconds from the creation of the output files until they expire; None if they never expire."""
    pairs: Mapped[dict[str, str] | None] = mapped_column("metadata")
    errors: Mapped[JsonObject | None]
    """{"data": [{"code", "line", "message", "param"}]} of a failed batch."""
    model: Mapped[str | None] = mapped_column(String(256))
    """The model that all requests of the batch name; None before validation, and if they name several models."""
    total: Mapped[int] = mapped_column(Integer, default=0)
    """Number of requests in the batch; 0 before validation."""
    completed: Mapped[int] = mapped_column(Integer, default=0)
    failed: Mapped[int] = mapped_column(Integer, default=0)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    completion_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    reasoning_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    """The part of `completion_tokens` that belongs to reasoning."""
    expires_at: Mapped[float] = mapped_column(UnixTime)
    in_progress_at: Mapped[float | None] = mapped_column(UnixTime)
    finalizing_at: Mapped[float | None] = mapped_column(UnixTime)
    completed_at: Mapped[float | None] = mapped_column(UnixTime)
    failed_at: Mapped[float | None] = mapped_column(UnixTime)
    expired_at: Mapped[float | None] = mapped_column(UnixTime)
    cancelling_at: Mapped[float | None] = mapped_column(UnixTime)
    cancelled_at: Mapped[float | None] = mapped_column(UnixTime)


LISTING = Listing(Batch.project_id, Batch.id, (Batch.created_at, Batch.id))


def get(session: Session, project_id: str, batch_id: str) -> Batch | None:
    return session.scalars(select(Batch).where(Batch.id == batch_id, Batch.project_id == project_id)).one_or_none()


def page(session: Session, project_id: str, *, after: str | None, limit: int) -> Page[Batch]:
    """Return a page of the project's batches, newest first."""
    return paginate(
        session,
        LISTING,
        project_id,
        select(Batch).where(Batch.project_id == project_id),
        after=after,
        limit=limit,
    )


def active(session: Session, project_id: str) -> tuple[int, int]:
    """Return the number of the project's unfinished batches, and the number of requests in them."""
    query = select(func.count(), func.coalesce(func.sum(Batch.total), 0))
    count, requests = session.execute(
        query.where(Batch.project_id == project_id, Batch.status.not_in(BATCH_FINAL))
    ).one()
    return int(count), int(requests)


def newest_like(session: Session, batch: Batch, within_s: float) -> Batch | None:
    """Return the project's newest batch of the last `within_s` seconds that an equal request created."""
    names = ("project_id", "key_id", "input_file", "endpoint", "output_expires_s")
    same = [getattr(Batch, name).is_not_distinct_from(getattr(batch, name)) for name in names]
    recent = select(Batch).where(*same, Batch.created_at > db_now() - within_s).order_by(Batch.created_at.desc())
    return next((each for each in session.scalars(recent) if each.pairs == batch.pairs), None)


def using_file(session: Session, project_id: str, file_id: str) -> Sequence[str]:
    """Return the ids of unfinished batches that read this file."""
    named = (Batch.project_id == project_id, Batch.input_file == file_id)
    return session.scalars(select(Batch.id).where(*named, Batch.status.not_in(BATCH_FINAL))).all()


def transition(session: Session, batch: Batch, to: BatchStatus, *, due_at: float | None = None) -> None:
    """Change the status of a locked batch. If this ends the batch, queue its webhooks in the same transaction.

    `due_at`: when a worker may take the batch next. A worker that holds the batch loses it.
    """
    assert to in TRANSITIONS[BatchStatus(batch.status)], f"{batch.id}: {batch.status} to {to}"
    session.execute(
        update(Batch)
        .where(Batch.id == batch.id)
        .values({"status": to, f"{to}_at": db_now(), "fence": Batch.fence + 1, "due_at": due_at})
    )
    if to in BATCH_FINAL:
        webhook_deliveries.enqueue(session, batch.project_id, batch.id, f"batch.{to}")
    session.refresh(batch)


def delete_ended(session: Session, keep_s: float, limit: int = 500) -> None:
    """Delete up to `limit` batches that ended more than `keep_s` seconds ago. Their items were deleted when
    the batches ended."""
    ended_at = func.coalesce(Batch.completed_at, Batch.failed_at, Batch.expired_at, Batch.cancelled_at)
    old = select(Batch.id).where(Batch.status.in_(BATCH_FINAL), ended_at < db_now() - keep_s).limit(limit)
    LISTING.delete(session, Batch.id.in_(old))
