"""The course of a loss in a few points, thinned evenly as it grows: a long training's is as short as a short one's."""

import math
from collections.abc import Sequence

POINTS = 20
BARS = "▁▂▃▄▅▆▇█"

Point = list[float]
"""[step, loss]"""


def extend(curve: list[Point], step: int, loss: float) -> None:
    """Add a point unless it is nearer than the others are to each other; drop every second one when there are too
    many."""
    if len(curve) > 1 and step - curve[-1][0] < curve[1][0] - curve[0][0]:
        return
    curve.append([step, loss])
    if len(curve) > POINTS:
        del curve[1::2]


def bars(curve: Sequence[Point]) -> str:
    """One character a point, from the lowest loss to the highest."""
    losses = [loss for _, loss in curve if math.isfinite(loss)]
    if not losses:
        return ""
    low, spread = min(losses), (max(losses) - min(losses)) or 1.0
    return "".join(
        BARS[round((loss - low) / spread * (len(BARS) - 1))] if math.isfinite(loss) else "?" for _, loss in curve
    )
