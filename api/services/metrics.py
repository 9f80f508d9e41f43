"""The metrics of a job's steps: all of them, or a selection of at most a given number of steps."""

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from api.context import Caller, Context
from api.records import events
from api.services import jobs
from api.spec.fields import JsonObject

MAIN_SERIES = "train_loss"


@dataclass(frozen=True)
class Selection:
    """The steps of a job whose metrics are listed."""

    numbers: Sequence[int]
    """The sequence numbers of the events with their metrics, sorted by step."""
    total: int
    """The number of all steps of the job."""

    def batches(self) -> Iterator[Sequence[int]]:
        """Yield the numbers in batches for `read`."""
        return events.batches_of(self.numbers)


def select_steps(context: Context, caller: Caller, job_id: str, max_points: int | None = None) -> Selection:
    """Select all steps of the job, or at most `max_points` of them (Columns.chosen). Raise NoSuchJob.

    Memory holds the complete metrics of one batch of steps at a time. Of all other steps it holds only the numbers,
    eight bytes for each.
    """
    jobs.require(context, caller, job_id)
    with context.database.read() as session:
        numbers = events.newest_metrics(session, job_id)
    if max_points is None or len(numbers) <= max_points:
        return Selection(numbers, len(numbers))
    columns = Columns()
    for batch in events.batches_of(numbers):
        columns.extend(read(context, batch))
    return Selection([numbers[index] for index in columns.chosen(max_points)], len(numbers))


def read(context: Context, numbers: Sequence[int]) -> Sequence[JsonObject]:
    """Return the metrics of one batch of steps. Those that were deleted in the meantime are missing."""
    with context.database.read() as session:
        return events.metrics_at(session, numbers)


class Columns:
    """The numeric series of a job's metrics, eight bytes for each value."""

    def __init__(self, points: Sequence[JsonObject] = ()) -> None:
        self._length = 0
        self._columns: dict[str, array[float]] = {}
        """{name: column}, with NaN for a point without this number. A column ends with the last batch in which its name
        occurs."""
        self.extend(points)

    def __len__(self) -> int:
        return self._length

    def extend(self, points: Sequence[JsonObject]) -> None:
        for name in dict.fromkeys(name for point in points for name in point):
            values: list[Any] = [point.get(name) for point in points]
            try:
                numbers = array("d", values)
            except TypeError:
                numbers = array("d", map(_number, values))
            column = self._columns.setdefault(name, array("d"))
            column.extend([math.nan] * (self._length - len(column)))
            column.extend(numbers)
        self._length += len(points)

    def chosen(self, limit: int) -> list[int]:
        """Return the indices of at most `limit` (two or more) points, in ascending order.

        The first and the last are always chosen. If there is room, so are the lowest and the highest point of every
        series, beginning with `train_loss`. The rest of the points are the lowest and the highest `train_loss` in each
        of several equally long stretches of steps.
        """
        if self._length <= limit:
            return list(range(self._length))
        kept = {0, self._length - 1}
        names = self._names()
        for name in names:
            kept.update(self._extremes(name, 0, self._length)[: limit - len(kept)])
        stretches = (limit - len(kept)) // 2 if names else 0
        for index in range(stretches):
            start, end = (1 + (self._length - 2) * edge // stretches for edge in (index, index + 1))
            kept.update(self._extremes(names[0], start, end))
        return sorted(kept)

    def _names(self) -> list[str]:
        """Return the names of the series: the main one first, then by the number of points that have them."""
        counts = {name: sum(map(math.isfinite, column)) for name, column in self._columns.items()}
        return sorted(filter(counts.get, counts), key=lambda name: (name != MAIN_SERIES, -counts[name], name))

    def _extremes(self, name: str, start: int, end: int) -> list[int]:
        """Return the indices of the first lowest and the first highest value from `start` to before `end`."""
        column = self._columns[name]
        values = [value for value in column[start:end] if math.isfinite(value)]
        return [column.index(pick(values), start, end) for pick in (min, max)] if values else []


def _number(value: object) -> float:
    return value if isinstance(value, int | float) else math.nan
