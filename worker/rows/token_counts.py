"""The tokens of a file, counted from a sample of its rows."""

from dataclasses import dataclass, field

import numpy as np

from worker.rows.row_builder import TokenizableRow
from worker.rows.tokenizer import TokenRow
from worker.shared.arrays import Rows
from worker.shared.counts import Counts, count

SAMPLED_ROWS = 2000


@dataclass
class Sample:
    """Every n-th row of the file, n doubled whenever there are twice as many as wanted."""

    stride: int = 1
    rows: dict[int, list[tuple[list[TokenRow], bool]]] = field(default_factory=dict)
    """File row → its array rows: (sequences, whether it is kept whatever the cut leaves)."""
    prompts: bool = False

    def wants(self, row: int) -> bool:
        return (row - 1) % self.stride == 0

    def add(self, row: int, composed: list[TokenizableRow], sequences: list[list[TokenRow]]) -> None:
        for each in composed:
            self.prompts = self.prompts or each.item is not None
        labelled = [each.label is not None and len(each.sequences) == 1 for each in composed]
        self.rows[row] = list(zip(sequences, labelled, strict=True))
        if len(self.rows) >= 2 * SAMPLED_ROWS:
            self.stride *= 2
            self.rows = {number: found for number, found in self.rows.items() if self.wants(number)}

    def counts(self, rows: int, *, asked: int | None, window: int | None, drop: bool) -> Counts:
        """`rows`: of the whole file, to which the sample's counts are scaled."""
        flat = [each for found in self.rows.values() for each in found]
        width = len(flat[0][0]) if flat else 1
        arrays = [row.tokens for sequences, _ in flat for row in sequences]
        ends = np.cumsum([len(each) for each in arrays], dtype=np.int64)
        whole = Rows(
            np.zeros(int(ends[-1]) if len(ends) else 0, np.int32),
            np.concatenate(
                [row.loss_weights for sequences, _ in flat for row in sequences] or [np.zeros(0, np.float32)]
            ),
            np.concatenate([[0], ends[:-1]]) if len(ends) else np.zeros(0, np.int64),
            ends,
            width=width,
            labels=np.zeros((len(flat), 1), np.float32) if flat and flat[0][1] else None,
        )
        counts = count(whole, asked=asked, window=window, drop=drop or self.prompts, prompts=self.prompts)
        scale = rows / max(1, len(self.rows))
        for name in ("array_rows", "kept_rows", "truncated", "dropped", "overlong", "tokens", "supervised_tokens"):
            setattr(counts, name, round(getattr(counts, name) * scale))
        counts.rows, counts.sampled = rows, len(self.rows)
        return counts
