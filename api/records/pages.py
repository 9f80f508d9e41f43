"""Cursor pagination: the rows after the one that the caller saw last."""

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Select, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

T = TypeVar("T")
U = TypeVar("U")

MAX_BYTES = 4 * 1024**2
"""Of the rows of one page. Rows may be large, and an answer is several times its rows while it is made."""
ROWS_AT_A_TIME = 20


@dataclass(frozen=True)
class Page(Generic[T]):
    data: list[T]
    has_more: bool


class UnknownCursor(Exception):
    """`after` names a row that is not in this list."""


def paginate(
    session: Session,
    query: Select[T],
    *,
    order: tuple[InstrumentedAttribute[Any], ...],
    id_column: InstrumentedAttribute[str],
    after: str | None,
    limit: int,
    newest_first: bool = True,
) -> Page[T]:
    """`order` are the columns that put the rows in order, the last of them unique."""
    if after is not None:
        scope: ColumnElement[bool] | None = query.whereclause
        seen = session.execute(
            select(*order).where(id_column == after, *([scope] if scope is not None else []))
        ).one_or_none()
        if seen is None:
            raise UnknownCursor(after)
        position = tuple_(*order)
        bound = tuple_(*seen)
        query = query.where(position < bound if newest_first else position > bound)
    query = query.order_by(*(column.desc() if newest_first else column.asc() for column in order)).limit(limit + 1)
    with closing(session.scalars(query.execution_options(yield_per=ROWS_AT_A_TIME))) as rows:
        return _cut(rows, limit, size_of, has_more=False)


def within(page: Page[T], views: Iterable[U], size: Callable[[U], int]) -> Page[U]:
    """What is made of the rows of a page, cut where it grows too large: `views` are made one by one."""
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


def size_of(row: Any) -> int:
    """About how many bytes a row has as JSON."""
    return sum(len(str(value)) for name, value in vars(row).items() if not name.startswith("_"))
