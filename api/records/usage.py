"""The usage ledger: what each key of a project used on each day, by model.

The amounts of an attempt are added in the transaction that ends it (`api.records.job_queue`); those of a model's
answer, in a transaction of their own. An attempt ends once, and a step counts for the attempt that reported it first,
so that retries are never counted twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Double, ForeignKey, String, case, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, current_time, insert

DAY_S = 24 * 3600
UNKNOWN_KEY = ""
"""Stands for the key of jobs and files from releases without a ledger, which did not record keys."""
NO_MODEL = ""
"""Stands for the model of stored bytes, which belong to no model."""


class Usage(Base):
    __tablename__ = "usage"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    day: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    """Unix time at which the day begins (UTC)."""
    key_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    model: Mapped[str] = mapped_column(String(256), primary_key=True)
    """The base or fine-tuned model that was trained or sampled, as the request named it."""
    trained_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    cpu_seconds: Mapped[float] = mapped_column(Double, default=0.0)
    """Seconds of attempts that used no GPU, from claim to end: preparation, and training on a processor."""
    gpu_seconds: Mapped[float] = mapped_column(Double, default=0.0)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    completion_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    judge_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    """The part of the prompt and completion tokens that graders used."""
    stored_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    """The day's largest measured size of the stored files, uploads, models and checkpoints."""


@dataclass(frozen=True)
class Account:
    """The project, key and model that usage is counted for."""

    project_id: str
    key_id: str
    model: str


FLOWS = ("trained_tokens", "cpu_seconds", "gpu_seconds", "prompt_tokens", "completion_tokens")
"""Amounts that add up over days. Stored bytes do not."""


def add(session: Session, account: Account, **amounts: float) -> None:
    """Add amounts, named by column, to the current day."""
    _upsert(session, account, amounts, {name: getattr(Usage, name) + amount for name, amount in amounts.items()})


def record_stored(session: Session, account: Account, stored_bytes: int) -> None:
    """Record the stored bytes if no measurement of the day was larger. Several workers may record the same
    measurement."""
    largest = case((Usage.stored_bytes > stored_bytes, Usage.stored_bytes), else_=stored_bytes)
    _upsert(session, account, {"stored_bytes": stored_bytes}, {"stored_bytes": largest})


def _upsert(session: Session, account: Account, new: dict[str, float], changes: dict[str, object]) -> None:
    statement = insert(session, Usage).values(day=day_of(current_time(session)), **vars(account), **new)
    session.execute(statement.on_conflict_do_update(index_elements=list(Usage.__table__.primary_key), set_=changes))


def day_of(time: float) -> int:
    """Return the Unix time at which the day of `time` begins (UTC)."""
    return int(time // DAY_S * DAY_S)


def summed(
    session: Session, project_id: str | None, start: float, end: float, dimensions: Sequence[str], limit: int
) -> list[dict[str, Any]]:
    """Return the sums of the days that begin at `start` or later and before `end`, at most `limit` rows.

    `project_id`: None for all projects. `dimensions`: any of `day`, `project_id`, `key_id` and `model`. There is a row
    for each combination of their values, in the order of these. Of stored bytes, the row has the largest sum of a day.
    """
    daily_columns = [getattr(Usage, name) for name in dict.fromkeys(("day", *dimensions))]
    sums = [func.sum(getattr(Usage, name)).label(name) for name in (*FLOWS, "stored_bytes")]
    daily_sums = select(*daily_columns, *sums).where(Usage.day >= start, Usage.day < end).group_by(*daily_columns)
    if project_id is not None:
        daily_sums = daily_sums.where(Usage.project_id == project_id)
    daily = daily_sums.subquery().c
    columns = [daily[name] for name in dimensions]
    totals = [func.sum(daily[name]).label(name) for name in FLOWS]
    query = select(*columns, *totals, func.max(daily.stored_bytes).label("stored_bytes"))
    rows = session.execute(query.group_by(*columns).order_by(*columns).limit(limit))
    return [dict(row) for row in rows.mappings()]


def used_since(session: Session, project_id: str, start: float) -> tuple[int, float]:
    """Return the trained tokens and the device seconds of the days since `start`."""
    query = select(
        func.coalesce(func.sum(Usage.trained_tokens), 0),
        func.coalesce(func.sum(Usage.cpu_seconds + Usage.gpu_seconds), 0.0),
    )
    tokens, seconds = session.execute(query.where(Usage.project_id == project_id, Usage.day >= start)).one()
    return int(tokens), float(seconds)


def judge_tokens_since(session: Session, project_id: str, start: float) -> int:
    """Return the tokens that graders used on the days since `start`."""
    query = select(func.coalesce(func.sum(Usage.judge_tokens), 0))
    return int(session.scalar(query.where(Usage.project_id == project_id, Usage.day >= start)) or 0)
