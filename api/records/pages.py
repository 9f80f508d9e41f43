"""Cursor pagination: a page begins after the last row of the previous page, even if that row was deleted since."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
from sqlalchemy import JSON, ColumnElement, Select, String, delete, insert, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Mapped, Session, mapped_column

from api.records.base import Base, UnixTime, current_time, db_now

T = TypeVar("T")
U = TypeVar("U")

MAX_BYTES = 4 * 1024**2
"""Size limit of the rows of one page, in bytes. A response takes several times the memory of its rows while it is
built."""
FIRST_ROWS = 20
"""Number of rows of a page that the first query reads, before their size is known. A page of the default length needs
no second query."""


@dataclass(frozen=True)
class Page(Generic[T]):
    data: list[T]
    has_more: bool


class UnknownCursor(Exception):
    """The id given as `after` belongs to no row that is or was in the list."""


class DeletedRow(Base):
    """The position that a deleted row had in its list, so that the row's id can still be a cursor."""

    __tablename__ = "deleted_rows"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(256))
    position: Mapped[list[str | float]] = mapped_column(JSON)
    """Values of the columns in `kept` of the Listing, or in `order` without it."""
    deleted_at: Mapped[float] = mapped_column(UnixTime, index=True)


SortColumn = InstrumentedAttribute[str] | InstrumentedAttribute[float] | InstrumentedAttribute[int]


@dataclass(frozen=True)
class Listing:
    """The rows of one table, divided into a list for each owner."""

    owner: InstrumentedAttribute[str]
    """Column with the project or object that a row's list belongs to."""
    id: InstrumentedAttribute[str]
    order: tuple[SortColumn, ...]
    """The columns to sort by, oldest first; the last one is unique within a list."""
    kept: tuple[SortColumn, ...] = ()
    """The columns that are recorded of a deleted row: those of `order`, and of each other Listing of the same rows.
    Empty: those of `order`."""

    def position(self, session: Session, owner: str, row_id: str) -> Sequence[object]:
        """Return the values of `order` in the owner's row with this id, which may be deleted.

        Raise UnknownCursor if the owner's list never had such a row.
        """
        row = session.execute(select(*self.order).where(self.id == row_id, self.owner == owner)).one_or_none()
        if row is not None:
            return tuple(row)
        deleted = select(DeletedRow.position).where(DeletedRow.id == row_id, DeletedRow.owner == owner)
        values = session.scalars(deleted).one_or_none() or []
        # Rows that were deleted before this listing existed lack some of its columns.
        position = dict(zip((column.key for column in self.kept or self.order), values, strict=False))
        if any(column.key not in position for column in self.order):
            raise UnknownCursor(row_id)
        return [position[column.key] for column in self.order]

    def delete(self, session: Session, condition: ColumnElement[bool]) -> int:
        """Delete the rows that match the condition, and record their positions. Return their number."""
        statement = delete(self.id.class_).where(condition).returning(self.id, self.owner, *(self.kept or self.order))
        now = current_time(session)
        deleted = [
            {"id": row_id, "owner": owner, "position": position, "deleted_at": now}
            for row_id, owner, *position in session.execute(statement)
        ]
        if deleted:
            session.execute(insert(DeletedRow), deleted)
        return len(deleted)


def forget_deleted(session: Session, keep_s: float) -> None:
    """Delete the positions of rows that were deleted more than `keep_s` seconds ago."""
    session.execute(delete(DeletedRow).where(DeletedRow.deleted_at <= db_now() - keep_s))


def paginate(
    session: Session,
    listing: Listing,
    owner: str,
    query: Select[T],
    *,
    after: str | None,
    limit: int,
    newest_first: bool = True,
    order: tuple[SortColumn, ...] | None = None,
    start: tuple[object, ...] | None = None,
) -> Page[T]:
    """Return a page of the query's rows: those after the owner's row with the id `after`, even if the query does not
    select that row.

    `order`: columns of the query that equal those of the listing's order, but have an index. `start`: the position
    where the first page begins. It is not a condition of `query`, because PostgreSQL may read from the farther of two
    bounds: a page begins at the nearer one. Raises UnknownCursor if `after` never was in the owner's list.
    """
    sorted_by = order or listing.order

    def after_row(values: Iterable[object]) -> Select[T]:
        position, bound = tuple_(*sorted_by), tuple_(*values)
        return query.where(position < bound if newest_first else position > bound)

    bounds: list[tuple[Any, ...]] = [] if start is None else [start]
    if after is not None:
        bounds.append(tuple(listing.position(session, owner, after)))
    begin = query
    if bounds:
        begin = after_row(min(bounds) if newest_first else max(bounds))
    columns = [column.desc() if newest_first else column.asc() for column in sorted_by]

    def rows() -> Iterator[T]:
        statement, count, read = begin, min(limit, FIRST_ROWS) + 1, 0
        while batch := session.scalars(statement.order_by(*columns).limit(count)).all():
            yield from batch
            read += len(batch)
            if len(batch) < count or read > limit:
                return
            statement = after_row(getattr(batch[-1], column.key) for column in listing.order)
            rows_that_fit = MAX_BYTES * len(batch) // sum(map(size_of, batch))
            count = min(limit + 1 - read, rows_that_fit + 1)

    return _cut(rows(), limit, size_of, has_more=False)


def cut_to_size(page: Page[T], views: Iterable[U], size: Callable[[U], int]) -> Page[U]:
    """Return the page with `views` in place of its rows, cut at MAX_BYTES.

    `views` may be a generator, which is read only as far as the page goes.
    """
    return _cut(views, len(page.data), size, has_more=page.has_more)


def _cut(items: Iterable[T], limit: int, size: Callable[[T], int], *, has_more: bool) -> Page[T]:
    kept: list[T] = []
    total = 0
    for item in items:
        total += size(item)
        if len(kept) == limit or (kept and total > MAX_BYTES):
            return Page(kept, True)
        kept.append(item)
    return Page(kept, has_more)


def size_of(row: object) -> int:
    """Return the approximate size of a row as JSON, in bytes."""
    return len(_ENCODER.encode(vars(row)))


_ENCODER = msgspec.json.Encoder(enc_hook=lambda _: None)
"""Encodes what SQLAlchemy keeps beside the columns of a row as null."""
