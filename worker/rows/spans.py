"""The supervised parts of a text."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """Characters [start, end) of a text, and the loss weight of the tokens that overlap them."""

    start: int
    end: int
    weight: float
