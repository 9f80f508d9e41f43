"""The tokens of a file, estimated from a sample of its rows."""

from dataclasses import dataclass, field

import numpy as np

from worker.rows.row_builder import TokenizableRow
from worker.rows.tokenize_rows import TokenRow
from worker.shared.arrays import Rows
from worker.shared.counts import Counts, count

SAMPLED_ROWS = 2000
"""A sample has at least this many rows, or all rows of a smaller file, and fewer than twice this many."""
SCALED = ("array_rows", "kept_rows", "truncated", "dropped", "overlong", "tokens", "supervised_tokens")
"""Counts that grow with the file."""


@dataclass
class RowSample:
    """Every n-th row of the file. The stride n doubles whenever the sample has twice the rows it needs."""

    stride: int = 1
    rows: dict[int, list[tuple[list[TokenRow], bool]]] = field(default_factory=dict)
    """Row number → for each of its array rows: (the tokens of its sequences, whether it is a labeled text)."""
    prompts: bool = False
    """Whether the rows are prompts to answer."""

    def wants(self, number: int) -> bool:
        return (number - 1) % self.stride == 0

    def add(self, number: int, built: list[TokenizableRow], encoded: list[list[TokenRow]]) -> None:
        """Add a row. `built`: its array rows. `encoded`: the tokens of each array row's sequences."""
        self.prompts = self.prompts or any(row.item is not None for row in built)
        labelled = [row.label is not None and len(row.sequences) == 1 for row in built]
        self.rows[number] = list(zip(encoded, labelled, strict=True))
        if len(self.rows) >= 2 * SAMPLED_ROWS:
            self.stride *= 2
            self.rows = {number: row for number, row in self.rows.items() if self.wants(number)}

    def counts(self, rows: int, *, max_length: int | None, window: int | None, drop: bool) -> Counts:
        """Return the sample's counts, scaled to a file of `rows` rows."""
        array_rows = [array_row for row in self.rows.values() for array_row in row]
        counts = count(
            self._arrays(array_rows),
            max_length=max_length,
            context_window=window,
            drop=drop or self.prompts,
            prompts=self.prompts,
        )
        scale = rows / max(1, len(self.rows))
        for name in SCALED:
            setattr(counts, name, round(getattr(counts, name) * scale))
        counts.histogram.rows = [round(count * scale) for count in counts.histogram.rows]
        counts.rows, counts.sampled = rows, len(self.rows)
        return counts

    def _arrays(self, array_rows: list[tuple[list[TokenRow], bool]]) -> Rows:
        sequences = [sequence for row, _ in array_rows for sequence in row]
        starts = np.cumsum([0, *(len(sequence.tokens) for sequence in sequences)], dtype=np.int64)
        return Rows(
            np.zeros(int(starts[-1]), np.int32),  # counting reads no token
            np.concatenate([np.zeros(0, np.float32), *(sequence.loss_weights for sequence in sequences)]),
            starts[:-1],
            starts[1:],
            width=len(array_rows[0][0]) if array_rows else 1,
            labels=np.zeros((len(array_rows), 1), np.float32) if array_rows and array_rows[0][1] else None,
        )
