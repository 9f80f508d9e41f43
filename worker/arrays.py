"""The rows of a file as arrays: what prepare writes, the supervisor counts and the trainer reads. Torch-free.

One safetensors file for each file of rows (docs/architecture.md): `tokens` i32 [N], `loss_weights` f32 [N] and `starts`
i64 [rows + 1]; row r is tokens[starts[r]:starts[r + 1]]. Files are memory-mapped, so that rows need not fit in memory.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

DTYPES: dict[str, tuple[str, np.dtype[Any]]] = {
    "tokens": ("I32", np.dtype("<i4")),
    "loss_weights": ("F32", np.dtype("<f4")),
    "starts": ("I64", np.dtype("<i8")),
}
CHUNK_ELEMENTS = 1 << 20

Array = npt.NDArray[Any]


class ArraysError(ValueError):
    """The file is not what `save_rows` writes."""


@dataclass(frozen=True)
class Rows:
    """Rows of tokens: row r is [starts[r], ends[r]) of one long array. Cutting and choosing rows copies no tokens."""

    tokens: npt.NDArray[np.int32]
    """[N]"""
    loss_weights: npt.NDArray[np.float32]
    """[N]: weight in the loss of predicting this token from those before it in its row."""
    starts: npt.NDArray[np.int64]
    """[rows]"""
    ends: npt.NDArray[np.int64]
    """[rows]"""

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """The row's tokens_T and loss_weights_T."""
        cut = slice(self.starts[row], self.ends[row])
        return self.tokens[cut], self.loss_weights[cut]

    def __iter__(self) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]]:
        return (self[row] for row in range(len(self)))

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        return self.ends - self.starts

    def take(self, rows: npt.NDArray[np.int64]) -> "Rows":
        return Rows(self.tokens, self.loss_weights, self.starts[rows], self.ends[rows])

    def truncate(self, max_length: int) -> tuple["Rows", int, int]:
        """Cut every row at the end to `max_length` tokens: (rows, dropped, truncated).

        Dropped are the rows left without a supervised token. A row's first token is predicted from nothing and
        therefore never counts. `truncated` counts the rows that were cut and kept.
        """
        ends_R = np.minimum(self.ends, self.starts + max_length)
        keep_R = self._supervised_before(ends_R)
        truncated = int((keep_R & (ends_R < self.ends)).sum())
        kept = Rows(self.tokens, self.loss_weights, self.starts[keep_R], ends_R[keep_R])
        return kept, len(self) - len(kept), truncated

    def _supervised_before(self, ends_R: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        return np.fromiter(
            (
                bool((self.loss_weights[start + 1 : end] > 0).any())
                for start, end in zip(self.starts, ends_R, strict=True)
            ),
            dtype=np.bool_,
            count=len(self),
        )


def split(rows: Rows, share: float, seed: int) -> tuple[Rows, Rows]:
    """(train, validation): `share` of the rows, drawn with the seed, are held out; both keep the file's order.

    At least one row stays for training; with a share above zero and two rows or more, at least one is held out.
    """
    held_out = min(max(round(share * len(rows)), 1 if share > 0 else 0), max(len(rows) - 1, 0))
    drawn_R = np.random.Generator(np.random.PCG64(seed)).permutation(len(rows))
    return rows.take(np.sort(drawn_R[held_out:])), rows.take(np.sort(drawn_R[:held_out]))


def load_rows(path: Path) -> Rows:
    """Memory-map a file that `save_rows` wrote."""
    arrays = _map_arrays(path)
    if missing := DTYPES.keys() - arrays.keys():
        raise ArraysError(f"{path.name}: no array called {', '.join(sorted(missing))}")
    tokens_N, loss_weights_N, starts = arrays["tokens"], arrays["loss_weights"], arrays["starts"]
    if len(tokens_N) != len(loss_weights_N):
        raise ArraysError(f"{path.name}: {len(tokens_N)} tokens but {len(loss_weights_N)} loss weights")
    if len(starts) == 0 or starts[0] != 0 or starts[-1] != len(tokens_N) or (np.diff(starts) < 0).any():
        raise ArraysError(f"{path.name}: starts must rise from 0 to {len(tokens_N)}")
    return Rows(tokens_N, loss_weights_N, starts[:-1], starts[1:])


def save_rows(path: Path, tokens: Array, loss_weights: Array, starts: Array) -> None:
    """Write the arrays (numpy or memory-mapped) as safetensors, a piece at a time, then move the file into place."""
    assert len(tokens) == len(loss_weights), f"{len(tokens)} tokens but {len(loss_weights)} loss weights"
    assert starts[-1] == len(tokens), f"starts end at {starts[-1]}, tokens at {len(tokens)}"
    # Widest first, so that each buffer begins where its type is aligned.
    arrays = {"starts": starts, "tokens": tokens, "loss_weights": loss_weights}
    header: dict[str, object] = {}
    offset = 0
    for name, array in arrays.items():
        code, dtype = DTYPES[name]
        end = offset + len(array) * dtype.itemsize
        header[name] = {"dtype": code, "shape": [len(array)], "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, array in arrays.items():
            for begin in range(0, len(array), CHUNK_ELEMENTS):
                file.write(np.ascontiguousarray(array[begin : begin + CHUNK_ELEMENTS], DTYPES[name][1]).tobytes())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _map_arrays(path: Path) -> dict[str, Array]:
    size = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if size < 8 or header_bytes > size - 8:
            raise ArraysError(f"{path.name}: not a safetensors file")
        header = json.loads(file.read(header_bytes))
    arrays: dict[str, Array] = {}
    for name, (code, dtype) in DTYPES.items():
        if name not in header:
            continue
        entry = header[name]
        (length,), (begin, end) = entry["shape"], entry["data_offsets"]
        if entry["dtype"] != code or end - begin != length * dtype.itemsize or 8 + header_bytes + end > size:
            raise ArraysError(f"{path.name}: array {name} is not {code} [{length}] within the file")
        if length == 0:  # an empty range cannot be mapped
            arrays[name] = np.empty(0, dtype)
        else:
            arrays[name] = np.memmap(path, dtype, "r", offset=8 + header_bytes + begin, shape=(length,))
    return arrays
