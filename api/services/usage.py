"""The usage of a project, summed by day, key and model."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal

from api.context import Caller, Context
from api.errors import InvalidRequest
from api.records import keys, usage
from api.records.base import current_time
from api.records.usage import DAY_S, FLOWS, day_of
from api.services import quotas
from api.services.quotas import Budget

Dimension = Literal["day", "key", "model"]

MAX_DAYS = 400
MAX_LINES = 10_000


@dataclass
class UsageLine:
    """The usage from `start_time` up to, but not including, `end_time`. Key and model are None unless the usage is
    grouped by them."""

    start_time: int
    """Unix time, the beginning of a day (UTC)."""
    end_time: int
    key_id: str | None = None
    key_name: str | None = None
    model: str | None = None
    trained_tokens: int = 0
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    stored_bytes: int = 0


def summed(
    context: Context, caller: Caller, start_time: int | None, end_time: int | None, group_by: Sequence[Dimension]
) -> list[UsageLine]:
    """Return the usage of the days from `start_time` to `end_time`, one line for each group. The default is this month
    so far.

    Raise InvalidRequest if the period is empty or too long, or if its usage has too many lines.
    """
    dimensions = [f"{name}_id" if name == "key" else name for name in dict.fromkeys(group_by) if name != "day"]
    with context.database.read() as session:
        start, end = _days(current_time(session), start_time, end_time)
        rows = usage.by_day(session, caller.project_id, start, end, dimensions, MAX_LINES + 1)
        names = keys.names(session, caller.project_id) if "key_id" in dimensions else {}
    if len(rows) > MAX_LINES:
        raise InvalidRequest(
            f"The usage of this period has more than {MAX_LINES:,} lines: choose a shorter period, or fewer fields in "
            "group_by",
            param="start_time",
        )
    lines: dict[tuple[object, ...], UsageLine] = {}
    for row in rows:
        times: tuple[int, int] = (row["day"], row["day"] + DAY_S) if "day" in group_by else (start, end)
        key_id, model = row.get("key_id") or None, row.get("model") or None
        line = UsageLine(*times, key_id, names.get(key_id or ""), model)
        _add(lines.setdefault((*times, key_id, model), line), row)
    return list(lines.values())


def _add(line: UsageLine, amounts: dict[str, Any]) -> None:
    for name in FLOWS:
        total = getattr(line, name)
        setattr(line, name, total + type(total)(amounts[name]))  # PostgreSQL returns sums of integers as Decimal
    line.stored_bytes = max(line.stored_bytes, int(amounts["stored_bytes"]))


def _days(now: float, start_time: int | None, end_time: int | None) -> tuple[int, int]:
    """Return the Unix times at which the first day begins and the last day ends (UTC). Raise InvalidRequest."""
    month = datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    start = day_of(month.timestamp() if start_time is None else start_time)
    end = day_of((now if end_time is None else end_time) - 1) + DAY_S
    if end <= start:
        raise InvalidRequest("end_time is not after start_time", param="end_time")
    if end - start > MAX_DAYS * DAY_S:
        raise InvalidRequest(
            f"The period from start_time to end_time is longer than {MAX_DAYS} days: choose a shorter one",
            param="start_time",
        )
    return start, end


def budgets(context: Context, caller: Caller) -> list[Budget]:
    with context.database.read() as session:
        return quotas.budgets_of(session, caller.project_id)


def as_csv(lines: Sequence[UsageLine]) -> str:
    """Return the lines as a CSV table. Times are written as dates: the first day, and the day after the last one."""
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in fields(UsageLine)], lineterminator="\n")
    table.writeheader()
    for line in lines:
        times = {"start_time": _date(line.start_time), "end_time": _date(line.end_time)}
        table.writerow(asdict(line) | times)
    return text.getvalue()


def _date(time: int) -> str:
    return datetime.fromtimestamp(time, UTC).date().isoformat()
