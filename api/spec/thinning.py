"""The choice of the points that a chart of a job's metrics shows."""

import math
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from api.spec.fields import JsonObject

MAIN_SERIES = "train_loss"


class Columns:
    """The numeric series of a job's metrics, eight bytes for each value. Every point has a step, and they ascend."""

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

    def chosen(self, limit: int, *, again: bool = False) -> list[int]:
        """Return the indices of at most `limit` (two or more) points, in ascending order.

        The first and the last are always chosen. If there is room, so are the lowest and the highest point of every
        series, beginning with `train_loss`, and then the lowest and the highest `train_loss` in each of several equal
        stretches of steps.

        `again`: whether later selections are chosen from this one and the points since. Then no point of theirs is
        lost: the number of steps of a stretch is a power of two, and its first step a multiple of that, so the
        stretches of a longer job consist of whole stretches of the shorter one.
        """
        if self._length <= limit:
            return list(range(self._length))
        kept = {0, self._length - 1}
        names = self._names()
        for name in names:
            kept.update(self._extremes(name, 0, self._length)[: limit - len(kept)])
        # Extremes that coincide leave room for more stretches now, but perhaps not in a later selection.
        used = 2 + 2 * len(names) if again else len(kept)
        for start, end in pairwise(self._edges((limit - used) // 2)) if names else ():
            kept.update(self._extremes(names[0], start, end))
        return sorted(kept)

    def _names(self) -> list[str]:
        """Return the names of the series: the main one first, then by the number of points that have them."""
        counts = {name: sum(map(math.isfinite, column)) for name, column in self._columns.items()}
        return sorted(filter(counts.get, counts), key=lambda name: (name != MAIN_SERIES, -counts[name], name))

    def _edges(self, most: int) -> list[int]:
        """Return the indices at which at most so many stretches begin, and the end of the last one."""
        if most < 1:
            return []
        steps = self._columns["step"]
        first, last = int(steps[0]), int(steps[-1])
        width = 1
        while last // width - first // width >= most:
            width *= 2
        begins = range(first // width + 1, last // width + 1)
        return [0, *(bisect_left(steps, number * width) for number in begins), self._length]

    def _extremes(self, name: str, start: int, end: int) -> list[int]:
        """Return the indices of the first lowest and the first highest value from `start` to before `end`."""
        column = self._columns[name]
        values = [value for value in column[start:end] if math.isfinite(value)]
        return [column.index(pick(values), start, end) for pick in (min, max)] if values else []


def _number(value: object) -> float:
    return value if isinstance(value, int | float) else math.nan
