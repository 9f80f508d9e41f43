"""Two queues in the database: pieces of work, such as batches, and the items of each, such as its requests.

A worker may take a row from the time `due_at`. A claim moves that time into the future by a lease, and increases the
row's fence, a number that every later write of the worker must match. If the worker dies, another worker takes the row
at that time; a late write of the first worker is refused. A finished row has no `due_at`.

The next work and the next item come from the project whose turn it is (api.records.turns). Of this project, the
next work is the one that has been due longest, and the next item belongs to the oldest work that has due items.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy import ColumnElement, ForeignKey, Integer, String, delete, func, select, tuple_, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records import turns
from api.records.base import UnixTime, changed_rows, current_time


class Work:
    """Columns of a piece of work that has items, such as a batch."""

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    key_id: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16), index=True)
    created_at: Mapped[float] = mapped_column(UnixTime)
    due_at: Mapped[float | None] = mapped_column(UnixTime, index=True)
    """Time from which a worker may take the work as a whole, such as to validate it; None once it has ended."""
    fence: Mapped[int] = mapped_column(Integer, default=0)
    """Number that every claim and every change of the status increases. Writes of a worker with an older number are
    refused."""


class Item:
    """Columns of an item, such as one request of a batch."""

    work_id: Mapped[str] = mapped_column(String(64), primary_key=True, sort_order=-2)
    line: Mapped[int] = mapped_column(Integer, primary_key=True, sort_order=-1)
    """Number of the item's line in the input, from 1."""
    due_at: Mapped[float | None] = mapped_column(UnixTime)
    """Time from which a worker may take the item; None once it is finished."""
    owner: Mapped[str | None] = mapped_column(String(64), index=True)
    """The worker that holds the item."""
    fence: Mapped[int] = mapped_column(Integer, default=0)
    """Number of claims of the item. Writes of a worker with an older number are refused."""
    faults: Mapped[int] = mapped_column(Integer, default=0)
    """Number of attempts that ended with a fault which the item may have caused."""


W = TypeVar("W", bound=Work)
I = TypeVar("I", bound=Item)  # noqa: E741 (reads with W)


class StaleWork(Exception):
    """Another worker has taken the work, or its status has changed, or it was deleted."""


@dataclass(frozen=True)
class WorkClaim(Generic[W]):
    """The right to a piece of work as a whole, such as to validate a batch, until its `due_at` or until its fence
    increases."""

    work: W
    """The row as it was claimed."""
    at: float
    """Time of the claim."""


@dataclass(frozen=True)
class ItemClaim(Generic[W, I]):
    """The right to work on one item until its lease expires."""

    work: W
    item: I
    """`work` and `item` are the rows as they were when the item was claimed."""
    at: float
    """Time of the claim."""

    @property
    def key(self) -> tuple[str, int, int]:
        """The id of the work, the line and the fence, which identify the claim."""
        return self.item.work_id, self.item.line, self.item.fence


@dataclass(frozen=True)
class WorkQueue(Generic[W, I]):
    turn: turns.What
    """Name of the turns (api.records.turns) that projects take with their items."""
    whole_turn: turns.What
    """Name of the turns that projects take with their work as a whole."""
    work: type[W]
    item: type[I]
    in_progress: str
    """The status in which the items of a piece of work may be taken."""

    def any_due(self, session: Session) -> bool:
        return (
            session.scalar(select(self.work.id).where(self.work.due_at <= current_time(session)).limit(1)) is not None
        )

    def claim(self, session: Session, lease_s: float) -> WorkClaim[W] | None:
        """Claim the work that has been due longest in the project whose turn it is. Return None if none is due."""
        now = current_time(session)
        is_due = self.work.due_at <= now
        # Without the CTE, SQLite reads all work that is kept, in the order of the projects.
        waiting = select(self.work.project_id, self.work.due_at).where(is_due).cte().prefix_with("MATERIALIZED")
        longest = select(waiting.c.project_id, func.min(waiting.c.due_at)).group_by(waiting.c.project_id)
        since = {project: float(at or 0) for project, at in session.execute(longest)}
        project_id = turns.next_project(session, self.whole_turn, since, {})
        due = select(self.work).where(self.work.project_id == project_id, is_due).order_by(self.work.due_at).limit(1)
        due = due.with_for_update(skip_locked=True).execution_options(populate_existing=True)
        work = session.scalars(due).one_or_none()
        if work is None:
            return None
        work.fence += 1
        work.due_at = now + lease_s
        session.flush()
        turns.record(session, self.whole_turn, work.project_id)
        return WorkClaim(work, now)

    def lock(self, session: Session, work_id: str) -> W:
        """Return the work, locked until this transaction ends. Raise StaleWork if it was deleted."""
        query = select(self.work).where(self.work.id == work_id).with_for_update()
        work = session.scalars(query.execution_options(populate_existing=True)).one_or_none()
        if work is None:
            raise StaleWork(work_id)
        return work

    def lock_claimed(self, session: Session, claim: WorkClaim[W]) -> W:
        """Return the claimed work, locked. Raise StaleWork if the claim is lost."""
        work = self.lock(session, claim.work.id)
        if work.fence != claim.work.fence:
            raise StaleWork(work.id)
        return work

    def renew(self, session: Session, claim: WorkClaim[W], lease_s: float) -> None:
        """Extend the lease. Raise StaleWork if the claim is lost."""
        self.lock_claimed(session, claim).due_at = current_time(session) + lease_s

    def remove_items(self, session: Session, work_id: str, limit: int | None = None) -> int:
        """Delete the items, or the first `limit` of them. Return their number."""
        items = self.item.work_id == work_id
        if limit is not None:
            first = select(self.item.line).where(items).order_by(self.item.line).limit(limit).scalar_subquery()
            items &= self.item.line.in_(first)
        return changed_rows(session.execute(delete(self.item).where(items)))

    def any_item_due(self, session: Session) -> bool:
        query = select(self.work.id).where(self._has_due_items(current_time(session)))
        return session.scalar(query.limit(1)) is not None

    def claim_item(self, session: Session, owner: str, lease_s: float) -> ItemClaim[W, I] | None:
        """Claim the next item of the project whose turn it is. Return None if no item is due."""
        now = current_time(session)
        project_id = self._next_project(session, now)
        if project_id is None:
            return None
        oldest = select(self.work).where(self.work.project_id == project_id, self._has_due_items(now))
        work = session.scalars(oldest.order_by(self.work.created_at, self.work.id).limit(1)).one_or_none()
        if work is None:
            return None
        query = select(self.item).where(self.item.work_id == work.id, self.item.due_at <= now)
        query = query.order_by(self.item.due_at, self.item.line).limit(1).with_for_update(skip_locked=True)
        item = session.scalars(query.execution_options(populate_existing=True)).one_or_none()
        if item is None:
            return None
        item.fence, item.owner, item.due_at = item.fence + 1, owner, now + lease_s
        session.flush()
        turns.record(session, self.turn, project_id)
        return ItemClaim(work, item, now)

    def _has_due_items(self, now: float) -> ColumnElement[bool]:
        due = select(self.item.line).where(self.item.work_id == self.work.id, self.item.due_at <= now).exists()
        return (self.work.status == self.in_progress) & due

    def _next_project(self, session: Session, now: float) -> str | None:
        work, item = self.work, self.item
        waiting = select(work.project_id, func.min(work.created_at)).where(self._has_due_items(now))
        oldest = {project: float(at) for project, at in session.execute(waiting.group_by(work.project_id))}
        if not oldest:
            return None
        held = select(work.project_id, func.count()).join(item, item.work_id == work.id)
        held = held.where(work.status == self.in_progress, item.owner.is_not(None), item.due_at > now)
        busy = {project: int(count) for project, count in session.execute(held.group_by(work.project_id))}
        return turns.next_project(session, self.turn, oldest, busy)

    def renew_items(
        self, session: Session, keys: Collection[tuple[str, int, int]], lease_s: float
    ) -> set[tuple[str, int, int]]:
        """Extend the leases of the claims with these keys if their work is in progress.

        Return the keys of the extended claims. The other claims are lost.
        """
        item = self.item
        going = select(self.work.id).where(self.work.status == self.in_progress)
        rows = session.execute(
            update(item)
            .where(tuple_(item.work_id, item.line, item.fence).in_(keys))
            .where(item.due_at.is_not(None), item.work_id.in_(going))
            .values(due_at=current_time(session) + lease_s)
            .returning(item.work_id, item.line, item.fence)
        )
        return {(work_id, line, fence) for work_id, line, fence in rows}

    def lock_for_result(self, session: Session, claim: ItemClaim[W, I], **values: object) -> W | None:
        """Finish the item with these values. Return the work that it belongs to, locked, so that the caller can add the
        result to the counts.

        Return None, and write nothing, if the claim is lost or the work is no longer in progress.
        """
        work = self.lock(session, claim.work.id)
        if work.status != self.in_progress or not self._write(session, claim, due_at=None, owner=None, **values):
            return None
        return work

    def release(
        self, session: Session, claim: ItemClaim[W, I], wait_s: float, *, fault: bool = False, **values: object
    ) -> None:
        """Give up the claim, so that a worker may take the item again after `wait_s` seconds, and set these values.

        `fault`: the attempt ended with a fault which the item may have caused.
        """
        values |= {"due_at": current_time(session) + wait_s, "owner": None, "faults": claim.item.faults + fault}
        self._write(session, claim, **values)

    def postpone(self, session: Session, work_id: str, wait_s: float) -> None:
        """Let the items that are due, and that no worker holds, wait for `wait_s` seconds."""
        now, item = current_time(session), self.item
        due = update(item).where(item.work_id == work_id, item.due_at <= now)
        session.execute(due.values(due_at=now + wait_s))

    def _write(self, session: Session, claim: ItemClaim[W, I], **values: object) -> bool:
        work_id, line, fence = claim.key
        held = (self.item.fence == fence, self.item.due_at.is_not(None))
        row = (self.item.work_id == work_id, self.item.line == line)
        return changed_rows(session.execute(update(self.item).where(*row, *held).values(**values))) == 1
