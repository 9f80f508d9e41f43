"""Cursor pagination: a page begins after the last row of the page before."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Select, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

T = TypeVar("T")
U = TypeVar("U")

MAX_BYTES = 4 * 1024**2
"""Size limit of the rows of one page. A response takes several times the memory of its rows while it is built."""
FIRST_ROWS = 20
"""Rows of a page that are read before their size is known. The default page needs one query."""


@dataclass(frozen=True)
class Page(Generic[T]):
    data: list[T]
    has_more: bool


class UnknownCursor(Exception):
    """`after` is not the id of a row in this list."""


def paginate(
    session: Session,
    query: Select[T],
    *,
    order: tuple[InstrumentedAttribute[str] | InstrumentedAttribute[float], ...],
    id_column: InstrumentedAttribute[str],
    after: str | None,
    limit: int,
    newest_first: bool = True,
    scope: ColumnElement[bool] | None = None,
    start: tuple[object, ...] | None = None,
) -> Page[T]:
    """Return the page of the query's rows after the row with the id `after`.

    `order` are the columns to sort by; the last one is unique. `scope` is the condition of rows that `after` may name,
    by default that of the query. `start` is a position before the first row, in place of a bound in the query: of two
    bounds, PostgreSQL may begin at the farther one. Raises UnknownCursor.
    """
    position = tuple_(*order)

    def after_row(values: Iterable[object]) -> Select[T]:
        bound = tuple_(*values)
        return query.where(position < bound if newest_first else position > bound)

    begin = query if start is None else after_row(start)
    if after is not None:
        scope = query.whereclause if scope is None else scope
        cursor = session.execute(
            select(*order).where(id_column == after, *([scope] if scope is not None else []))
        ).one_or_none()
        if cursor is None:
            raise UnknownCursor(after)
        begin = after_row(cursor)
    columns = [column.desc() if newest_first else column.asc() for column in order]

    def rows() -> Iterator[T]:
        statement, count, read = begin, min(limit, FIRST_ROWS) + 1, 0
        while batch := session.scalars(statement.order_by(*columns).limit(count)).all():
            yield from batch
            read += len(batch)
            if len(batch) < count or read > limit:
                return
            statement = after_row(getattr(batch[-1], column.key) for column in order)
            rows_that_fit = MAX_BYTES * len(batch) // sum(map(size_of, batch))
            count = min(limit + 1 - read, rows_that_fit + 1)

    return _cut(rows(), limit, size_of, has_more=False)


def cut_to_size(page: Page[T], views: Iterable[U], size: Callable[[U], int]) -> Page[U]:
    """Return the page with `views` in place of its rows, cut at MAX_BYTES. `views` are built one by one."""
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
    return len(_ENCODER.encode({name: value for name, value in vars(row).items() if not name.startswith("_")}))


_ENCODER = msgspec.json.Encoder()
