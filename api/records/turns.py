"""Turns of projects at slots that all projects share.

The next turn goes to the waiting project with the fewest running tasks, and among equals to the one whose last turn was
earliest. Usage over a time window would not be fair: a project that arrives with a thousand tasks would be served
before all projects that had tasks in the window.
"""

from collections.abc import Mapping
from typing import Literal

from sqlalchemy import BigInteger, ForeignKey, String, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, insert

What = Literal["prepare", "scan", "batch", "evaluate", "whole_batch", "whole_eval_run"]


class Turn(Base):
    """The last turn of a project at one kind of task, `what`."""

    __tablename__ = "turns"

    what: Mapped[str] = mapped_column(String(16), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
    """Sequence number over the turns of all projects at this kind of task."""


def next_project(session: Session, what: What, oldest: Mapping[str, float], busy: Mapping[str, int]) -> str | None:
    """Return the project whose turn it is; None if no project waits.

    `oldest` is the creation time of each waiting project's oldest task; `busy` is the number of each project's running
    tasks.
    """
    ended = last(session, what)
    order = {project: (busy.get(project, 0), ended.get(project, 0), since) for project, since in oldest.items()}
    return min(order, key=lambda project: (order[project], project), default=None)


def last(session: Session, what: What) -> dict[str, int]:
    """Return the sequence number of each project's last turn."""
    rows = session.execute(select(Turn.project_id, Turn.number).where(Turn.what == what))
    return {row.project_id: row.number for row in rows}


def record(session: Session, what: What, project_id: str) -> None:
    """Record a turn of the project."""
    number = select(func.coalesce(func.max(Turn.number), 0) + 1).where(Turn.what == what).scalar_subquery()
    statement = insert(session, Turn).values(what=what, project_id=project_id, number=number)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[Turn.what, Turn.project_id], set_={"number": statement.excluded.number}
        )
    )
