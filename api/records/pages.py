"""Cursor pagination: the rows after the one that the caller saw last."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Select, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

T = TypeVar("T")


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
    rows = list(session.scalars(query))
    return Page(rows[:limit], len(rows) > limit)
