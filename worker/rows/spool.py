"""Rows of tokens on their way to a file of arrays: kept on disk, so that memory does not grow with the file."""

from array import array
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from worker.arrays import save_rows
from worker.rows.tokens import TokenRow


class Spool:
    """Appends rows to two raw files beside the target, which `save` turns into the target. A context manager."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.lengths = array("q")
        self.supervised_tokens = 0
        self._paths = [target.with_name(f"{target.name}.{part}.bin") for part in ("tokens", "loss_weights")]
        self._files = [path.open("wb") for path in self._paths]

    def append(self, rows: Iterable[TokenRow]) -> None:
        for row in rows:
            self.lengths.append(len(row.tokens))
            self.supervised_tokens += int(np.count_nonzero(row.loss_weights[1:]))
            self._files[0].write(row.tokens.astype("<i4", copy=False).data)
            self._files[1].write(row.loss_weights.astype("<f4", copy=False).data)

    def save(self) -> None:
        for file in self._files:
            file.flush()
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths, dtype=np.int64)])
        total = int(starts[-1])
        tokens, weights = (
            np.memmap(path, dtype, "r", shape=(total,)) if total else np.empty(0, dtype)
            for path, dtype in zip(self._paths, (np.dtype("<i4"), np.dtype("<f4")), strict=True)
        )
        save_rows(self.target, tokens, weights, starts)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        for file, path in zip(self._files, self._paths, strict=True):
            with suppress(OSError):  # a full disk, which the write before has reported
                file.close()
            path.unlink(missing_ok=True)
