"""Token counts of a file's rows, before and after they are cut."""

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from api.estimate.work import Workload
from worker.shared.arrays import Rows, load_rows

QUANTILES = 33
MAX_BINS = 32


class Histogram(msgspec.Struct):
    """Number of rows by the tokens of their longest sequence, before rows are cut."""

    width: int
    """Tokens that a bin spans, a power of two. Bin i counts lengths from i · width to (i + 1) · width - 1."""
    rows: list[int]


class Counts(msgspec.Struct):
    """Counts of a file's rows as a training would use them."""

    rows: int
    """Rows of the user's file."""
    sampled: int
    """Rows that were tokenized; equal to `rows` if the counts are exact."""
    array_rows: int
    """Rows of the arrays, before any is dropped. Under kto, a pair becomes two rows."""
    width: int
    """Sequences of an array row."""
    kept_rows: int
    """Rows of the arrays after the cut."""
    truncated: int
    dropped: int
    overlong: int
    tokens: int
    """Tokens of the kept rows after the cut."""
    supervised_tokens: int
    longest: int
    """Tokens of the longest sequence before the cut."""
    max_length: int
    lengths: list[int]
    """QUANTILES quantiles of the rows' lengths in tokens, in ascending order. A row's length is that of its longest
    sequence; rows that were left out do not count."""
    histogram: Histogram
    labels: int | None = None
    """Number of distinct label names."""

    def workload(self) -> Workload:
        return Workload(
            rows=self.kept_rows,
            width=self.width,
            tokens=self.tokens,
            supervised=self.supervised_tokens,
            lengths=tuple(self.lengths),
        )


def count_arrays(path: Path, *, rows: int, max_length: int | None, context_window: int | None, drop: bool) -> Counts:
    """Return the counts of arrays that were prepared before. `rows`: number of rows in the file from which they were
    prepared. The other arguments are those of `count`."""
    loaded = load_rows(path)
    prompts = loaded.items is not None
    counts = count(loaded, max_length=max_length, context_window=context_window, drop=drop, prompts=prompts)
    counts.rows = counts.sampled = rows
    counts.labels = None if loaded.label_names is None else len(loaded.label_names)
    return counts


def count(rows: Rows, *, max_length: int | None, context_window: int | None, drop: bool, prompts: bool) -> Counts:
    """Return the counts of the rows. `max_length`: the requested maximum; None: as long as the longest row. `drop`:
    drop overlong rows instead of cutting them. `prompts`: whether the rows are prompts, which have no supervised
    tokens."""
    lengths_S = rows.ends - rows.starts
    longest = int(lengths_S.max(initial=0))
    limit = min(max_length or max(longest, 1), context_window or max(longest, 1))
    overlong = len(rows.overlong(limit))
    if prompts:  # prompts have no supervised tokens
        kept, dropped, truncated = rows.take(np.setdiff1d(np.arange(len(rows)), rows.overlong(limit))), overlong, 0
    else:
        kept, dropped, truncated = rows.truncate(limit, drop=drop)
    sizes_R = (kept.ends - kept.starts).reshape(-1, kept.width).max(1, initial=0)
    quantiles: npt.NDArray[np.float64] = (
        np.quantile(sizes_R, np.linspace(0, 1, QUANTILES)) if len(sizes_R) else np.zeros(0)
    )
    return Counts(
        rows=len(rows),
        sampled=len(rows),
        array_rows=len(rows),
        width=rows.width,
        kept_rows=len(kept),
        truncated=truncated,
        dropped=dropped,
        overlong=overlong,
        tokens=int(kept.lengths.sum()),
        supervised_tokens=int(kept.supervised_before(kept.ends).sum()),
        longest=longest,
        max_length=limit,
        lengths=[round(value) for value in quantiles.tolist()],
        histogram=_histogram(lengths_S.reshape(-1, rows.width).max(1, initial=0)),
    )


def _histogram(lengths_R: npt.NDArray[np.int64]) -> Histogram:
    width = 1
    while width * MAX_BINS <= lengths_R.max(initial=0):
        width *= 2
    return Histogram(width, np.bincount(lengths_R // width).tolist())


def workload(rows: Rows) -> Workload:
    """Return the workload of rows that are already cut."""
    prompts = rows.items is not None
    return count(rows, max_length=None, context_window=None, drop=False, prompts=prompts).workload()
