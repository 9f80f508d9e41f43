"""The rows of a file as arrays. Prepare writes them, the supervisor counts them, and the trainer reads them.

Each file of rows becomes one safetensors file (docs/internals/wall.md). A row is `width` sequences: one, or two for a
pair (preferred, other). Sequence s is tokens[starts[s]:starts[s + 1]] with its loss weights. A file may also hold
`labels` f32 [rows, columns] and, for prompts, `items`: the JSON object of each row, as bytes. Files are memory-mapped,
so that rows need not fit in memory.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

from api.spec.safetensors_header import HeaderError, read_header

DTYPES: dict[str, tuple[str, np.dtype[Any]]] = {
    "starts": ("I64", np.dtype("<i8")),
    "item_starts": ("I64", np.dtype("<i8")),
    "tokens": ("I32", np.dtype("<i4")),
    "loss_weights": ("F32", np.dtype("<f4")),
    "labels": ("F32", np.dtype("<f4")),
    "items": ("U8", np.dtype("u1")),
}
"""The arrays that a file may hold: {name: (type in safetensors' notation, numpy's type)}. The widest types come first,
so that each array is aligned."""
REQUIRED = ("starts", "tokens", "loss_weights")
CHUNK_ELEMENTS = 1 << 20

Array = npt.NDArray[Any]
JsonObject: TypeAlias = dict[str, object]


class Facts(TypedDict, total=False):
    """The metadata of a file of arrays: fields of `Rows`."""

    width: int
    together: int
    label_names: list[str] | None


class ArraysError(ValueError):
    """The file was not written by `save_rows`, or is damaged."""


@dataclass(frozen=True)
class Items:
    """The JSON object of each row of the file."""

    text: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    """[rows + 1]: where each row's object begins in `text`, and where the last one ends."""

    def __getitem__(self, row: int) -> JsonObject:
        item: JsonObject = json.loads(self.text[self.starts[row] : self.starts[row + 1]].tobytes())
        return item


@dataclass(frozen=True)
class Rows:
    """Rows of `width` sequences of tokens. Cutting and choosing rows copies no tokens.

    Sequence s is [starts[s], ends[s]) of one long array; row r is the sequences r * width … r * width + width - 1.
    """

    tokens: npt.NDArray[np.int32]
    """[N]"""
    loss_weights: npt.NDArray[np.float32]
    """[N]: weight in the loss of predicting this token from those before it in its sequence."""
    starts: npt.NDArray[np.int64]
    """[sequences]"""
    ends: npt.NDArray[np.int64]
    """[sequences]"""
    width: int = 1
    together: int = 1
    """How many consecutive rows come from one row of the user's file. `split` keeps them together."""
    labels: npt.NDArray[np.float32] | None = None
    """[rows, columns]"""
    label_names: tuple[str, ...] | None = None
    """Names of the classes or columns; None if the labels are numbers."""
    numbers: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """[rows]: number of each row in its file, from 0. The number is also the row's index in `items`."""
    items: Items | None = None
    per_token: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    """{name: [N]}: values that a method computes for every token, such as the log-probability with which it was
    sampled."""
    per_row: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    """{name: [rows, …]}: values that a method computes for every row, such as its log-probability under the
    reference."""

    def __post_init__(self) -> None:
        if len(self.numbers) != len(self):
            object.__setattr__(self, "numbers", np.arange(len(self)))

    def __len__(self) -> int:
        return len(self.starts) // self.width

    def __iter__(self) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]]:
        return (self.sequence(index) for index in range(len(self.starts)))

    def sequence(self, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Return the sequence's tokens_T and loss_weights_T."""
        cut = slice(self.starts[index], self.ends[index])
        return self.tokens[cut], self.loss_weights[cut]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """[rows]: number of tokens in all sequences of each row."""
        lengths: npt.NDArray[np.int64] = (self.ends - self.starts).reshape(-1, self.width).sum(1)
        return lengths

    def take(self, rows: npt.NDArray[np.int64]) -> "Rows":
        """Return these rows, in this order."""
        sequences = (rows[:, None] * self.width + np.arange(self.width)).reshape(-1)
        return replace(
            self,
            starts=self.starts[sequences],
            ends=self.ends[sequences],
            labels=None if self.labels is None else self.labels[rows],
            numbers=self.numbers[rows],
            per_row={name: values[rows] for name, values in self.per_row.items()},
        )

    def column(self, index: int) -> "Rows":
        """Return rows of width 1. Each is the sequence with this index in its row."""
        return replace(self, starts=self.starts[index :: self.width], ends=self.ends[index :: self.width], width=1)

    def overlong(self, max_length: int) -> npt.NDArray[np.int64]:
        """Return the indices [n] of the rows with a sequence of more than `max_length` tokens."""
        longer_S = self.ends - self.starts > max_length
        return np.flatnonzero(longer_S.reshape(-1, self.width).any(1))

    def truncate(self, max_length: int, *, drop: bool = False) -> tuple["Rows", int, int]:
        """Cut every sequence after `max_length` tokens. Return (rows, dropped, truncated).

        A row is dropped if one of its sequences keeps no supervised token, unless only labels are supervised. Overlong
        prompts are always dropped instead of cut; with `drop`, all overlong rows are. `truncated` counts the rows that
        were cut and kept.
        """
        ends_S = np.minimum(self.ends, self.starts + max_length)
        cut_R = (ends_S < self.ends).reshape(-1, self.width).any(1)
        if self.items is not None:
            keep_R = ~cut_R
        elif self.labels is not None and not self.loss_weights.any():
            keep_R = np.ones(len(self), np.bool_)
        else:
            keep_R = (self.supervised_before(ends_S) > 0).reshape(-1, self.width).all(1)
        if drop:
            keep_R = keep_R & ~cut_R
        kept = replace(self, ends=ends_S).take(np.flatnonzero(keep_R))
        return kept, len(self) - len(kept), int((keep_R & cut_R).sum())

    def supervised_before(self, ends_S: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return [sequences]: the number of supervised tokens before `ends_S`. The first token of a sequence does not
        count, because it is never predicted."""
        firsts_S = np.minimum(self.starts + 1, ends_S)
        counted_P = self._supervised_up_to(np.concatenate([firsts_S, ends_S]))
        return counted_P[len(firsts_S) :] - counted_P[: len(firsts_S)]

    def _supervised_up_to(self, positions_P: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return [P]: the number of supervised tokens before each of these positions in the long array. Counts of all
        its tokens would not fit in memory, so they are made for a chunk at a time."""
        order_P = np.argsort(positions_P, kind="stable")
        sorted_P = positions_P[order_P]
        counted_P = np.zeros(len(positions_P), np.int64)
        before = 0
        for begin in range(0, len(self.loss_weights), CHUNK_ELEMENTS):
            counted_N = before + np.cumsum(self.loss_weights[begin : begin + CHUNK_ELEMENTS] > 0)
            first, last = np.searchsorted(sorted_P, [begin + 1, begin + len(counted_N) + 1])
            counted_P[order_P[first:last]] = counted_N[sorted_P[first:last] - begin - 1]
            before = counted_N[-1]
        return counted_P


def split(rows: Rows, share: float, seed: int) -> tuple[Rows, Rows]:
    """Return (train, validation). A `share` of the rows, drawn with the seed, is held out for validation. Both keep the
    file's order.

    At least one row is left for training. If the share is above zero and there are two rows or more, at least one is
    held out.
    """
    sources_R = rows.numbers // rows.together
    sources_F = np.unique(sources_R)
    held_out = min(max(round(share * len(sources_F)), 1 if share > 0 else 0), max(len(sources_F) - 1, 0))
    drawn_F = np.random.Generator(np.random.PCG64(seed)).permutation(len(sources_F))
    held_out_R = np.isin(sources_R, sources_F[drawn_F[:held_out]])
    return rows.take(np.flatnonzero(~held_out_R)), rows.take(np.flatnonzero(held_out_R))


def load_rows(path: Path) -> Rows:
    """Memory-map a file that `save_rows` wrote. Changes to the arrays stay in memory."""
    arrays, facts = _map_arrays(path)
    if missing := set(REQUIRED) - arrays.keys():
        raise ArraysError(f"{path.name}: the file lacks the arrays {', '.join(sorted(missing))}")
    tokens_N, loss_weights_N, starts = arrays["tokens"], arrays["loss_weights"], arrays["starts"]
    if len(tokens_N) != len(loss_weights_N):
        raise ArraysError(f"{path.name}: {len(tokens_N)} tokens but {len(loss_weights_N)} loss weights")
    if len(starts) == 0 or starts[0] != 0 or starts[-1] != len(tokens_N) or (np.diff(starts) < 0).any():
        raise ArraysError(f"{path.name}: the array `starts` must rise from 0 to {len(tokens_N)}")
    width, names = facts.get("width", 1), facts.get("label_names")
    rows, rest = divmod(len(starts) - 1, width)
    labels = arrays.get("labels")
    if rest:
        message = f"{len(starts) - 1} sequences cannot be divided into rows of {width} sequences"
        raise ArraysError(f"{path.name}: {message}")
    if labels is not None and len(labels) != rows:
        raise ArraysError(f"{path.name}: {len(labels)} labels for {rows} rows")
    items = Items(arrays["items"], arrays["item_starts"]) if "item_starts" in arrays else None
    if items is not None and (len(items.starts) != rows + 1 or items.starts[-1] != len(items.text)):
        raise ArraysError(f"{path.name}: the items do not match the {rows} rows")
    return Rows(
        tokens_N,
        loss_weights_N,
        starts[:-1],
        starts[1:],
        width=width,
        together=facts.get("together", 1),
        labels=labels,
        label_names=None if names is None else tuple(names),
        items=items,
    )


def save_rows(
    path: Path,
    tokens: Array,
    loss_weights: Array,
    starts: Array,
    *,
    width: int = 1,
    together: int = 1,
    labels: Array | None = None,
    label_names: Sequence[str] | None = None,
    items: Array | None = None,
    item_starts: Array | None = None,
) -> None:
    """Write the arrays (numpy or memory-mapped) as safetensors, in chunks, then move the file into place.

    tokens [N], loss_weights [N], starts [sequences + 1], labels [rows, columns], items [bytes], item_starts [rows + 1].
    """
    assert len(tokens) == len(loss_weights), f"{len(tokens)} tokens but {len(loss_weights)} loss weights"
    assert starts[-1] == len(tokens), f"starts end at {starts[-1]}, tokens at {len(tokens)}"
    given = {
        "starts": starts,
        "item_starts": item_starts,
        "tokens": tokens,
        "loss_weights": loss_weights,
        "labels": labels,
        "items": items,
    }
    arrays = {name: given[name] for name in DTYPES if given[name] is not None}
    names = None if label_names is None else list(label_names)
    facts: Facts = {"width": width, "together": together, "label_names": names}
    header: dict[str, object] = {"__metadata__": {"rows": json.dumps(facts)}}
    offset = 0
    for name, array in arrays.items():
        assert array is not None
        code, dtype = DTYPES[name]
        end = offset + array.size * dtype.itemsize
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, array in arrays.items():
            assert array is not None
            for begin in range(0, len(array), CHUNK_ELEMENTS):
                file.write(np.ascontiguousarray(array[begin : begin + CHUNK_ELEMENTS], DTYPES[name][1]).tobytes())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def rows_of(sequences: Sequence[Sequence[int] | Array]) -> Rows:
    """Return rows of one sequence each, in memory. Every token has weight 1."""
    ends = np.cumsum([len(tokens) for tokens in sequences])
    tokens_N = np.concatenate([np.asarray(tokens, np.int32) for tokens in sequences])
    return Rows(tokens_N, np.ones(len(tokens_N), np.float32), np.concatenate([[0], ends[:-1]]), ends)


def _map_arrays(path: Path) -> tuple[dict[str, Array], Facts]:
    """Return the arrays by name, and the metadata that `save_rows` wrote."""
    try:
        header = read_header(path)
    except HeaderError as error:
        raise ArraysError(f"{path.name}: not a safetensors file: {error}") from None
    arrays: dict[str, Array] = {}
    for name, (code, dtype) in DTYPES.items():
        if name not in header.tensors:
            continue
        entry = header.tensors[name]
        if entry.dtype != code:
            raise ArraysError(f"{path.name}: array {name} is of type {entry.dtype}, not {code}")
        if entry.end == entry.begin:  # an empty range cannot be mapped
            arrays[name] = np.empty(entry.shape, dtype)
        else:
            arrays[name] = np.memmap(path, dtype, "c", offset=entry.begin, shape=entry.shape)
    facts: Facts = json.loads(header.metadata.get("rows", "{}"))
    return arrays, facts
