"""Writing of tokenized rows to a file of arrays. Rows are collected on disk, so memory does not grow with the file."""

from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from worker.rows.tokenize_rows import TokenRow
from worker.shared.arrays import Array, save_rows


class ArrayWriter:
    """A context manager that appends rows to raw files beside the target, until `save` turns them into the target."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.lengths = array("q")
        """The length of each sequence in tokens."""
        self.item_lengths = array("q")
        """The length of each item in bytes."""
        self.supervised_tokens = 0
        self._paths = [target.with_name(f"{target.name}.{part}.bin") for part in ("tokens", "loss_weights", "items")]
        self._files = [path.open("wb") for path in self._paths]

    def append(self, rows: Iterable[TokenRow]) -> None:
        for row in rows:
            self.lengths.append(len(row.tokens))
            self.supervised_tokens += int(np.count_nonzero(row.loss_weights[1:]))
            self._files[0].write(row.tokens.astype("<i4", copy=False).data)
            self._files[1].write(row.loss_weights.astype("<f4", copy=False).data)

    def append_item(self, item: bytes) -> None:
        """Append an item: the row that a prompt came from, as JSON, for the grader to read."""
        self.item_lengths.append(len(item))
        self._files[2].write(item)

    def save(self, width: int, rows_per_example: int, labels: Array | None, label_names: Sequence[str] | None) -> None:
        """Write the target from all appended sequences. An array row consists of `width` sequences, and a row of the
        user's file became `rows_per_example` array rows. `labels`: [array rows, columns]."""
        for file in self._files:
            file.flush()
        starts, item_starts = _starts(self.lengths), _starts(self.item_lengths)
        tokens, weights = (
            _memory_map(path, code, starts) for path, code in zip(self._paths, ("<i4", "<f4"), strict=False)
        )
        save_rows(
            self.target,
            tokens,
            weights,
            starts,
            width=width,
            together=rows_per_example,
            labels=labels,
            label_names=label_names,
            items=_memory_map(self._paths[2], "u1", item_starts) if self.item_lengths else None,
            item_starts=item_starts if self.item_lengths else None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        for file, path in zip(self._files, self._paths, strict=True):
            with suppress(OSError):  # the disk is full, which an earlier write reported
                file.close()
            path.unlink(missing_ok=True)


def _starts(lengths: "array[int]") -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _memory_map(path: Path, typecode: str, starts: npt.NDArray[np.int64]) -> Array:
    total = int(starts[-1])
    return np.memmap(path, typecode, "r", shape=(total,)) if total else np.empty(0, typecode)
