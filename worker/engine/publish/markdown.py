"""Functions that write untrusted text so that it has no effect as Markdown, and loss curves as bars of characters."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence


def code(text: str) -> str:
    """Return the text as a code span on one line, safe within a table."""
    line = " ".join(_printable(text).split()).replace("|", "\\|")
    ticks = "`" * (_longest_run(line) + 1)
    space = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{ticks}{space}{line}{space}{ticks}"


def fenced(text: str, language: str = "text") -> str:
    """Return a code block whose fence is longer than any in the text."""
    text = _printable(text)
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table. The cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def settings(values: Mapping[str, object]) -> str:
    """Return a table of names and JSON values."""
    return table(
        ["name", "value"], ([code(name), code(json.dumps(value, ensure_ascii=False))] for name, value in values.items())
    )


def number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.4g}"


def _printable(text: str) -> str:
    """Return the text with a replacement for each control character, which could steer a terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


POINTS = 20
BARS = "▁▂▃▄▅▆▇█"

Point = list[float]
"""[step, loss]"""


def extend(curve: list[Point], step: int, loss: float) -> None:
    """Add a point to the curve, which keeps at most `POINTS` at equal distances.

    A point that follows the last one too closely is left out. When there are too many points, every second one is
    dropped.
    """
    if len(curve) > 1 and step - curve[-1][0] < curve[1][0] - curve[0][0]:
        return
    curve.append([step, loss])
    if len(curve) > POINTS:
        del curve[1::2]


def bars(curve: Sequence[Point]) -> str:
    """Return one character for each point: its height is the loss, between the curve's lowest and highest."""
    losses = [loss for _, loss in curve if math.isfinite(loss)]
    if not losses:
        return ""
    low, spread = min(losses), (max(losses) - min(losses)) or 1.0
    return "".join(
        BARS[round((loss - low) / spread * (len(BARS) - 1))] if math.isfinite(loss) else "?" for _, loss in curve
    )
