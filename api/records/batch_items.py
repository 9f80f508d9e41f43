"""Items of batches: the position of each request in the input file, and its result. Deleted when the batch ends.

`due_at` is the queue: a waiting item is due, a claimed one is due again when its lease expires, a finished one never.
The next item comes from the project whose turn it is (api.records.turns), and there from its oldest batch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records import batches, turns
from api.records.base import Base, UnixTime, changed_rows, current_time
from api.records.batches import Batch, BatchClaim
from api.records.files import File
from api.spec.batch import BatchStatus


class BatchItem(Base):
    __tablename__ = "batch_items"
    __table_args__ = (Index("ix_batch_items_due", "batch_id", "due_at", "line"),)

    batch_id: Mapped[str] = mapped_column(ForeignKey("batches.id"), primary_key=True)
    line: Mapped[int] = mapped_column(Integer, primary_key=True)
    """Number of its line in the input file, from 1."""
    custom_id: Mapped[str] = mapped_column(String(512))
    start: Mapped[int] = mapped_column(BigInteger)
    """Position of the line in the input file, in bytes."""
    bytes: Mapped[int] = mapped_column(Integer)
    due_at: Mapped[float | None] = mapped_column(UnixTime)
    """Time from which a worker may take it; None once it is finished."""
    owner: Mapped[str | None] = mapped_column(String(64), index=True)
    """The worker that holds it."""
    fence: Mapped[int] = mapped_column(Integer, default=0)
    """Number of its claims. Writes of a worker with an older number are refused."""
    faults: Mapped[int] = mapped_column(Integer, default=0)
    """Attempts that ended with a fault of the sampler which the request may have caused."""
    succeeded: Mapped[bool | None]
    """Whether it was answered; None before its end."""
    result: Mapped[str | None] = mapped_column(Text)
    """Its line of the output file or of the error file."""


@dataclass(frozen=True)
class NewItem:
    line: int
    custom_id: str
    start: int
    bytes: int


@dataclass(frozen=True)
class ItemClaim:
    """The right to answer one item until its lease expires."""

    batch_id: str
    line: int
    fence: int
    faults: int
    custom_id: str
    start: int
    bytes: int
    project_id: str
    key_id: str
    endpoint: str
    storage_key: str
    """Object of the input file."""

    @property
    def id(self) -> str:
        return item_id(self.batch_id, self.line)


@dataclass(frozen=True)
class ItemResult:
    succeeded: bool
    text: str
    """The line of the output file or of the error file."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


def item_id(batch_id: str, line: int) -> str:
    """Return the public id of an item."""
    return f"batch_req_{batch_id.removeprefix('batch_')}_{line}"


def add(session: Session, batch_id: str, items: Iterable[NewItem]) -> None:
    """Add items, which are due once the batch is in progress."""
    rows = [{"batch_id": batch_id, "due_at": 0.0, "fence": 0, "faults": 0, **vars(item)} for item in items]
    session.execute(insert(BatchItem), rows)


def remove_of(session: Session, batch_id: str) -> None:
    session.execute(delete(BatchItem).where(BatchItem.batch_id == batch_id))


def any_due(session: Session) -> bool:
    return session.scalar(select(Batch.id).where(_has_due_items(current_time(session))).limit(1)) is not None


def claim(session: Session, owner: str, lease_s: float) -> ItemClaim | None:
    """Claim the next item of the project whose turn it is. Return None if none is due."""
    now = current_time(session)
    project_id = _next_project(session, now)
    if project_id is None:
        return None
    oldest = select(Batch).where(Batch.project_id == project_id, _has_due_items(now))
    batch = session.scalars(oldest.order_by(Batch.created_at, Batch.id).limit(1)).one_or_none()
    if batch is None:
        return None
    query = select(BatchItem).where(BatchItem.batch_id == batch.id, BatchItem.due_at <= now)
    query = query.order_by(BatchItem.due_at, BatchItem.line).limit(1).with_for_update(skip_locked=True)
    item = session.scalars(query.execution_options(populate_existing=True)).one_or_none()
    key = session.scalars(select(File.storage_key).where(File.id == batch.input_file)).one_or_none()
    if item is None or key is None:
        return None
    item.fence, item.owner, item.due_at = item.fence + 1, owner, now + lease_s
    session.flush()
    turns.record(session, "batch", project_id)
    named = {
        name: getattr(item, name) for name in ("batch_id", "line", "fence", "faults", "custom_id", "start", "bytes")
    }
    return ItemClaim(**named, project_id=project_id, key_id=batch.key_id, endpoint=batch.endpoint, storage_key=key)


def _has_due_items(now: float) -> ColumnElement[bool]:
    due = select(BatchItem.line).where(BatchItem.batch_id == Batch.id, BatchItem.due_at <= now).exists()
    return (Batch.status == BatchStatus.IN_PROGRESS) & due


def _next_project(session: Session, now: float) -> str | None:
    waiting = select(Batch.project_id, func.min(Batch.created_at)).where(_has_due_items(now))
    oldest = {project: float(at) for project, at in session.execute(waiting.group_by(Batch.project_id))}
    if not oldest:
        return None
    held = select(Batch.project_id, func.count()).join(BatchItem, BatchItem.batch_id == Batch.id)
    held = held.where(BatchItem.owner.is_not(None), BatchItem.due_at > now).group_by(Batch.project_id)
    busy = {project: int(count) for project, count in session.execute(held)}
    return turns.next_project(session, "batch", oldest, busy)


def renew(session: Session, owner: str, lease_s: float) -> set[tuple[str, int, int]]:
    """Extend the leases of a worker's items in batches that are in progress.

    Return the batch, the line and the fence of each; those that are missing are lost.
    """
    going = select(Batch.id).where(Batch.status == BatchStatus.IN_PROGRESS)
    rows = session.execute(
        update(BatchItem)
        .where(BatchItem.owner == owner, BatchItem.due_at.is_not(None), BatchItem.batch_id.in_(going))
        .values(due_at=current_time(session) + lease_s)
        .returning(BatchItem.batch_id, BatchItem.line, BatchItem.fence)
    )
    return {(batch_id, line, fence) for batch_id, line, fence in rows}


def finish(session: Session, claim: ItemClaim, result: ItemResult) -> bool:
    """Store the item's result and count it; after the last one, the batch is due to be finalized.

    Return False if the claim is lost or the batch is no longer in progress.
    """
    batch = batches.lock(session, claim.batch_id)
    if batch.status != BatchStatus.IN_PROGRESS:
        return False
    values = {"succeeded": result.succeeded, "result": result.text, "due_at": None, "owner": None}
    if not _write(session, claim, **values):
        return False
    batch.completed += result.succeeded
    batch.failed += not result.succeeded
    batch.prompt_tokens += result.prompt_tokens
    batch.completion_tokens += result.completion_tokens
    session.flush()
    if batch.completed + batch.failed == batch.total:
        batches.transition(session, batch, BatchStatus.FINALIZING, due_at=current_time(session))
    return True


def release(session: Session, claim: ItemClaim, wait_s: float, *, fault: bool = False) -> None:
    """Give up the claim, so that a worker takes the item again after `wait_s` seconds."""
    faults = claim.faults + fault
    _write(session, claim, due_at=current_time(session) + wait_s, owner=None, faults=faults)


def _write(session: Session, claim: ItemClaim, **values: object) -> bool:
    held = (BatchItem.fence == claim.fence, BatchItem.due_at.is_not(None))
    row = (BatchItem.batch_id == claim.batch_id, BatchItem.line == claim.line)
    return changed_rows(session.execute(update(BatchItem).where(*row, *held).values(**values))) == 1


def results(session: Session, claim: BatchClaim, *, succeeded: bool, after: int, limit: int) -> Sequence[BatchItem]:
    """Return the next items by line: the answered ones, or all others."""
    kind = BatchItem.succeeded.is_(True) if succeeded else BatchItem.succeeded.is_not(True)
    query = select(BatchItem).where(BatchItem.batch_id == claim.batch.id, BatchItem.line > after, kind)
    return session.scalars(query.order_by(BatchItem.line).limit(limit)).all()


def has_unanswered(session: Session, batch_id: str) -> bool:
    """Return whether any item has no result."""
    query = select(BatchItem.line).where(BatchItem.batch_id == batch_id, BatchItem.succeeded.is_(None))
    return session.scalar(query.limit(1)) is not None
