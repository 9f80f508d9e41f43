"""Whose turn it is at the slots that all projects share: of those who wait, the project that has fewest at it now, and
among equals the one whose last turn is longest ago.

No count over an hour: whoever comes new with a thousand would go before all that worked within that hour.
"""

from collections.abc import Mapping
from typing import Literal

from sqlalchemy import BigInteger, ForeignKey, String, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, insert

What = Literal["prepare", "scan"]


class Turn(Base):
    """The last turn that a project had."""

    __tablename__ = "turns"

    what: Mapped[str] = mapped_column(String(16), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
    """They are counted over all projects."""


def following(session: Session, what: What, oldest: Mapping[str, float], busy: Mapping[str, int]) -> str | None:
    """Return the project whose turn it is. `oldest`: since when each that waits does so; `busy`: how many it has at it.

    None if nobody waits.
    """
    rows = session.execute(select(Turn.project_id, Turn.number).where(Turn.what == what))
    last = {row.project_id: row.number for row in rows}
    order = {project: (busy.get(project, 0), last.get(project, 0), since) for project, since in oldest.items()}
    return min(order, key=lambda project: (order[project], project), default=None)


def take(session: Session, what: What, project_id: str) -> None:
    """Note that the project has its turn."""
    number = select(func.coalesce(func.max(Turn.number), 0) + 1).where(Turn.what == what).scalar_subquery()
    statement = insert(session, Turn).values(what=what, project_id=project_id, number=number)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[Turn.what, Turn.project_id], set_={"number": statement.excluded.number}
        )
    )
