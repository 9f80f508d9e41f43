"""Items of batches. An item is one request: its position in the input file, and its result. The items of a batch are
deleted when the batch ends."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, Text, insert, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records import batches
from api.records.base import Base, current_time
from api.records.batches import Batch
from api.records.item_queue import Item, ItemClaim, WorkQueue
from api.spec.batch import BatchStatus


class BatchItem(Item, Base):
    __tablename__ = "batch_items"
    __table_args__ = (Index("ix_batch_items_due", "batch_id", "due_at", "line"),)

    work_id: Mapped[str] = mapped_column("batch_id", ForeignKey("batches.id"), primary_key=True, sort_order=-2)
    custom_id: Mapped[str] = mapped_column(String(512))
    start: Mapped[int] = mapped_column(BigInteger)
    """Position of the line in the input file, in bytes."""
    bytes: Mapped[int] = mapped_column(Integer)
    succeeded: Mapped[bool | None]
    """Whether the request was answered; None while there is no result."""
    result: Mapped[str | None] = mapped_column(Text)
    """The line for the output file or the error file."""


BatchItemClaim = ItemClaim[Batch, BatchItem]
QUEUE = WorkQueue("batch", "whole_batch", Batch, BatchItem, BatchStatus.IN_PROGRESS)


@dataclass(frozen=True)
class NewItem:
    line: int
    custom_id: str
    start: int
    bytes: int


@dataclass(frozen=True)
class ItemResult:
    succeeded: bool
    text: str
    """The line for the output file or the error file."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0


def item_id(batch_id: str, line: int) -> str:
    """Return the public id of an item."""
    return f"batch_req_{batch_id.removeprefix('batch_')}_{line}"


def add(session: Session, batch_id: str, items: Iterable[NewItem]) -> None:
    """Add items. Workers may take them once the batch is in progress."""
    rows = [{"work_id": batch_id, "due_at": 0.0, "fence": 0, "faults": 0, **vars(item)} for item in items]
    session.execute(insert(BatchItem), rows)


def finish(session: Session, claim: BatchItemClaim, result: ItemResult) -> bool:
    """Store the item's result and add it to the batch's counts. After the last result, the batch is due to be
    finalized.

    Return False if the claim is lost or the batch is no longer in progress.
    """
    batch = QUEUE.lock_for_result(session, claim, succeeded=result.succeeded, result=result.text)
    if batch is None:
        return False
    batch.completed += result.succeeded
    batch.failed += not result.succeeded
    batch.prompt_tokens += result.prompt_tokens
    batch.completion_tokens += result.completion_tokens
    batch.reasoning_tokens += result.reasoning_tokens
    session.flush()
    if batch.completed + batch.failed == batch.total:
        batches.transition(session, batch, BatchStatus.FINALIZING, due_at=current_time(session))
    return True


def results(session: Session, batch_id: str, *, succeeded: bool, after: int, limit: int) -> Sequence[BatchItem]:
    """Return the next items after the line `after`, in order. With `succeeded`, these are the answered items, otherwise
    all others."""
    kind = BatchItem.succeeded.is_(True) if succeeded else BatchItem.succeeded.is_not(True)
    query = select(BatchItem).where(BatchItem.work_id == batch_id, BatchItem.line > after, kind)
    return session.scalars(query.order_by(BatchItem.line).limit(limit)).all()


def has_unanswered(session: Session, batch_id: str) -> bool:
    """Return whether any item has no result."""
    query = select(BatchItem.line).where(BatchItem.work_id == batch_id, BatchItem.succeeded.is_(None))
    return session.scalar(query.limit(1)) is not None
