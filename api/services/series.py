"""A long series of steps as a short one that looks the same. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

MAIN = "train_loss"


def thin(points: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most so many (two or more) of the points, in their order; none of them is made up.

    Always there: the first and the last; then, as far as there is room, the lowest and the highest of every series,
    train_loss before the others; then the lowest and highest train_loss of each stretch of steps.
    """
    if len(points) <= most:
        return list(points)
    kept = {0, len(points) - 1}
    names = _series(points)
    for name in names:
        kept.update(_extremes(points, range(len(points)), name)[: most - len(kept)])
    stretches = (most - len(kept)) // 2
    for index in range(stretches):
        start, end = (1 + (len(points) - 2) * edge // stretches for edge in (index, index + 1))
        kept.update(_extremes(points, range(start, end), names[0]))
    return [points[index] for index in sorted(kept)]


def _series(points: Sequence[dict[str, Any]]) -> list[str]:
    """The names of the numbers that points have, the main one first, then those that most points have."""
    counts = Counter(name for point in points for name, value in point.items() if _is_number(value))
    return sorted(counts, key=lambda name: (name != MAIN, -counts[name], name))


def _extremes(points: Sequence[dict[str, Any]], indices: Iterable[int], name: str) -> list[int]:
    given = [index for index in indices if _is_number(points[index].get(name))]
    if not given:
        return []
    return [pick(given, key=lambda index: float(points[index][name])) for pick in (min, max)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
