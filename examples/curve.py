"""A plot of a loss curve for the terminal."""

import math
from collections.abc import Sequence

HEIGHT = 8
WIDTH = 72


def draw(losses: Sequence[float]) -> str:
    """Return the plot, one column per step or group of steps. The scale is logarithmic: the loss falls by orders."""
    per_column = math.ceil(len(losses) / WIDTH)
    chunks = [losses[i : i + per_column] for i in range(0, len(losses), per_column)]
    levels = [math.log(max(sum(chunk) / len(chunk), 1e-6)) for chunk in chunks]
    low, high = min(levels), max(levels)
    unit = (high - low) / (HEIGHT - 1) or 1.0
    column_width = min(3, WIDTH // len(levels))
    lines = []
    for row in range(HEIGHT - 1, -1, -1):
        dots = "".join(("●" if round((level - low) / unit) == row else " ").ljust(column_width) for level in levels)
        lines.append(f"{math.exp(low + row * unit):8.3f} ┤ {dots.rstrip()}")
    lines.append(f"{'loss':>8} └{'─' * (len(levels) * column_width)} step {len(losses)}")
    return "\n".join(lines)
