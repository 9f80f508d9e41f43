"""The usage of a project, or for the operator that of all projects, summed by day, project, key and model."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from api.context import Caller, Context
from api.errors import Forbidden, InvalidRequest
from api.records import keys, projects, usage
from api.records.base import current_time
from api.records.usage import DAY_S, FLOWS, day_of
from api.services.budgets import Budget, budgets_of, month_of

Dimension = Literal["day", "project", "key", "model"]

MAX_DAYS = 400
MAX_LINES = 10_000
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters of the texts that spreadsheets take for formulas."""


@dataclass
class UsageLine:
    """The usage from `start_time` up to, but not including, `end_time`. Project, key and model are None unless
    the usage is grouped by them."""

    start_time: int
    """Unix time, the beginning of a day (UTC)."""
    end_time: int
    key_id: str | None = None
    key_name: str | None = None
    model: str | None = None
    project_id: str | None = None
    project_name: str | None = None
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

    Grouped by project, it is the usage of all projects, otherwise the caller's own. Raise Forbidden if the caller may
    not see other projects, and InvalidRequest if the period is empty or too long, or if its usage has too many lines.
    """
    if "project" in group_by and not caller.is_operator:
        raise Forbidden(
            "The usage of all projects needs a key of scope 'operator': `attune keys create --scope operator` on the "
            "server's machine",
            param="group_by",
        )
    project_id = None if "project" in group_by else caller.project_id
    dimensions = [_COLUMNS.get(name, name) for name in sorted(set(group_by), key=_ORDER.index)]
    with context.database.read() as session:
        start, end = _days(current_time(session), start_time, end_time)
        rows = usage.summed(session, project_id, start, end, dimensions, MAX_LINES + 1)
        names = keys.names(session, project_id) if "key" in group_by else {}
        names |= projects.names(session) if "project" in group_by else {}
    if len(rows) > MAX_LINES:
        raise InvalidRequest(
            f"The usage of this period has more than {MAX_LINES:,} lines: choose a shorter period, or fewer fields in "
            "group_by",
            param="start_time",
        )
    return [_line(row, start, end, names) for row in rows]


_ORDER = get_args(Dimension)
_COLUMNS = {"project": "project_id", "key": "key_id"}


def _line(row: dict[str, Any], start: int, end: int, names: Mapping[str, str]) -> UsageLine:
    """Return the line of a row of `api.records.usage.summed`. `names`: those of keys and projects, by id."""
    times: tuple[int, int] = (row["day"], row["day"] + DAY_S) if "day" in row else (start, end)
    project, key_id, model = (row.get(name) or None for name in ("project_id", "key_id", "model"))
    line = UsageLine(*times, key_id, names.get(key_id or ""), model, project, names.get(project or ""))
    for name in (*FLOWS, "stored_bytes"):
        setattr(line, name, type(getattr(line, name))(row[name]))  # PostgreSQL returns sums of integers as Decimal
    return line


def _days(now: float, start_time: int | None, end_time: int | None) -> tuple[int, int]:
    """Return the Unix times at which the first day begins and the last day ends (UTC). Raise InvalidRequest."""
    start = day_of(month_of(now)[0] if start_time is None else start_time)
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
        return budgets_of(session, caller.project_id)


def as_csv(lines: Sequence[UsageLine]) -> str:
    """Return the lines as a CSV table. Times are written as dates: the first day, and the day after the last one."""
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in fields(UsageLine)], lineterminator="\n")
    table.writeheader()
    for line in lines:
        times = {"start_time": _date(line.start_time), "end_time": _date(line.end_time)}
        table.writerow({name: _cell(value) for name, value in (asdict(line) | times).items()})
    return text.getvalue()


def _cell(value: object) -> object:
    """Return the value, with an apostrophe before a text that a spreadsheet would run as a formula. Users choose the
    names of keys."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _date(time: int) -> str:
    return datetime.fromtimestamp(time, UTC).date().isoformat()
