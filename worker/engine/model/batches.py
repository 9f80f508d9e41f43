"""The layout of rows in micro-batches with a budget of tokens."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from worker.engine.model.attention import Segments, sent
from worker.shared.arrays import Rows

Array = npt.NDArray[np.generic]

FEWEST_SHARED = 16
"""Fewer tokens are not shared: sharing divides a batch into more blocks, which costs more than these tokens."""
COPIED_SHARE = 1 / 8
"""Share of a token's activations that a copy of its keys and values takes at most. Attention keeps a copy of the shared
tokens' keys and values for each sequence."""


@dataclass(frozen=True)
class Layout:
    packed: bool
    """Whether several sequences share one row. If not, the batch is right-padded."""
    single_row: bool = False
    """Whether a micro-batch has a single row."""
    shares_prompts: bool = True
    """Whether the sequences of a packed pair, and answers to the same prompt, share the tokens that they begin with, so
    that these are computed once."""
    pad_token: int | None = None
    """The padding token of a sequence classifier, whose score is read at the last token that is not padding."""


@dataclass(frozen=True)
class MicroBatch:
    """R rows of `width` sequences each on the device, laid out as B rows of T positions; S tokens are supervised.

    The sequences of a packed pair, and answers to the same prompt, may share the tokens that they all begin with. These
    positions belong to each of them.
    """

    rows: npt.NDArray[np.int64]
    """[R]: the index of each row among those that were divided into micro-batches. On the host."""
    sources: npt.NDArray[np.int64]
    """[S]: the index of each supervised token in `Rows.tokens`. On the host."""
    tokens: torch.Tensor
    """[B, T]; B is 1 when packed."""
    positions: torch.Tensor
    """[B, T], from 0 in each sequence."""
    segments: Segments | None
    """The borders of the sequences in a packed row."""
    attention_mask: torch.Tensor | None
    """[B, T] of a padded batch: 1 at real tokens."""
    lengths: torch.Tensor
    """[B, T]: the length of the sequence that each position belongs to; 0 at padding. Tokens that sequences share have
    the length of one of them."""
    last: torch.Tensor
    """[R * width], indices into B * T: the token at which a sequence's score is read."""
    target_positions: torch.Tensor
    """[S], indices into B * T: the position before each supervised token, from which the token is predicted."""
    targets: torch.Tensor
    """[S]"""
    weights: torch.Tensor
    """[S]"""
    owners: torch.Tensor
    """[S]: the sequence of each supervised token, from 0 to R * width - 1, ascending."""
    width: int
    labels: torch.Tensor | None
    """[R, columns]"""
    per_token: Mapping[str, torch.Tensor]
    """[S] each: the method's values of the supervised tokens (`Rows.per_token`)."""
    per_row: Mapping[str, torch.Tensor]
    """[R, …] each: the method's values of the rows (`Rows.per_row`)."""

    @property
    def sequences(self) -> int:
        return len(self.last)

    def each_alone(self) -> Iterator["MicroBatch"]:
        """Yield each sequence for a forward pass of its own. `targets` and the other fields that no forward pass reads
        are still those of the whole batch. The sequences must not share tokens."""
        for row, (place, start, end) in enumerate(self._places()):
            own, offset = (slice(place, place + 1), slice(start, end)), place * self.tokens.shape[1] + start
            yield replace(
                self,
                tokens=self.tokens[own],
                positions=self.positions[own],
                segments=None if self.segments is None else Segments.of([end - start], self.tokens.device),
                attention_mask=None if self.attention_mask is None else self.attention_mask[own],
                lengths=self.lengths[own],
                last=self.last[row : row + 1] - offset,
                target_positions=self.target_positions[self.owners == row] - offset,
            )

    def _places(self) -> list[tuple[int, int, int]]:
        """Return (row of [B, T], start, end) of each sequence."""
        if self.segments is None:
            assert self.attention_mask is not None
            return [(row, 0, length) for row, length in enumerate(self.attention_mask.sum(1).tolist())]
        borders = np.cumsum([0, *self.segments.lengths]).tolist()
        return [(0, start, end) for start, end in pairwise(borders)]

    def sums(self, values_S: torch.Tensor) -> torch.Tensor:
        """Return [R * width]: the sums over each sequence of a value for each supervised token."""
        return values_S.new_zeros(self.sequences).index_add(0, self.owners, values_S)

    def counts(self) -> torch.Tensor:
        """Return [R * width]: the number of supervised tokens of each sequence, at least 1 so that it can be a
        divisor."""
        return self.sums(torch.ones_like(self.weights)).clamp(min=1)


def total_weight(rows: Rows) -> float:
    """Return the sum of the loss weights. A sequence's first token has no prediction and never counts."""
    return float(sum(float(weights_T[1:].sum(dtype=np.float64)) for _, weights_T in rows))


class Unit(NamedTuple):
    """Rows that are computed together: a single row, or answers to the same prompt."""

    rows: list[int]
    shared: int
    """Number of first tokens that all sequences of the rows share, and that are computed once."""
    size: int
    """Number of tokens that the rows count in the budget of a micro-batch."""


def micro_batches(rows: Rows, budget_tokens: int, layout: Layout, device: torch.device) -> Iterator[MicroBatch]:
    """Yield the rows in micro-batches of at most `budget_tokens`. A longer row is a micro-batch of its own."""
    units = _units(rows, budget_tokens, layout)
    for members in plan([unit.size for unit in units], budget_tokens, layout):
        yield _lay_out(rows, [units[member] for member in members], layout, device)


def _units(rows: Rows, budget_tokens: int, layout: Layout) -> list[Unit]:
    if not layout.packed:  # a padded row takes its longest length for each sequence
        lengths_R = rows.width * (rows.ends - rows.starts).reshape(-1, rows.width).max(1)
        return [Unit([row], 0, size) for row, size in enumerate(lengths_R.tolist())]
    lengths = rows.lengths.tolist()
    units: list[Unit] = []
    for run in _runs(rows):
        shared = shared_tokens(rows, run) if layout.shares_prompts and not layout.single_row else 0
        if rows.width > 1:
            units.append(Unit(run, shared, lengths[run[0]] - (rows.width - 1) * shared))
        else:
            units += _parts(run, lengths, shared, budget_tokens)
    return units


def _runs(rows: Rows) -> list[list[int]]:
    """Return the rows one by one; neighbors that are the same row of the file, to which several answers were sampled,
    together."""
    if rows.width > 1:
        return [[row] for row in range(len(rows))]
    borders = [0, *(np.flatnonzero(np.diff(rows.numbers)) + 1).tolist(), len(rows)]
    return [list(range(start, end)) for start, end in pairwise(borders)]


def shared_tokens(rows: Rows, run: list[int]) -> int:
    """Return the number of first tokens that the sequences of these rows share. At least one token of each sequence is
    not shared. 0 for fewer than FEWEST_SHARED tokens."""
    if len(run) * rows.width < 2:
        return 0
    sequences = [rows.sequence(row * rows.width + index)[0] for row in run for index in range(rows.width)]
    shortest = min(map(len, sequences)) - 1
    differs_T = np.any([each[:shortest] != sequences[0][:shortest] for each in sequences[1:]], axis=0)
    shared = int(differs_T.argmax()) if differs_T.any() else shortest
    return 0 if shared < FEWEST_SHARED else shared


def _parts(run: list[int], lengths: list[int], shared: int, budget_tokens: int) -> list[Unit]:
    """Return the answers to a prompt in units that fit in the budget, each with the prompt's tokens once. Answers of
    similar length become neighbors, which attention computes as a block."""
    copied = math.ceil(COPIED_SHARE * shared)
    units: list[Unit] = []
    for row in sorted(run, key=lambda row: lengths[row]):
        own = lengths[row] - shared
        if shared and units and units[-1].size + copied + own <= budget_tokens:
            first = units[-1]
            units[-1] = Unit([*first.rows, row], shared, first.size + copied + own)
        else:
            units.append(Unit([row], 0, lengths[row]))
    return units


def plan(sizes: Sequence[int], budget_tokens: int, layout: Layout) -> list[list[int]]:
    """Return groups of rows that share a micro-batch. Rows are sorted by size, so that neighbors need little padding.

    A row larger than the budget is a micro-batch of its own.
    """
    groups: list[list[int]] = []
    used = 0
    for row in sorted(range(len(sizes)), key=lambda row: sizes[row]):
        used = used + sizes[row] if layout.packed else (len(groups[-1]) + 1) * sizes[row] if groups else 0
        if not groups or layout.single_row or used > budget_tokens:
            groups.append([row])
            used = sizes[row]
        else:
            groups[-1].append(row)
    return groups


def _lay_out(rows: Rows, units: list[Unit], layout: Layout, device: torch.device) -> MicroBatch:
    indices = np.array([row for unit in units for row in unit.rows])
    rows = rows.take(indices)
    lengths = (rows.ends - rows.starts).tolist()
    sequences, longest = len(lengths), max(lengths)
    placed = _pack(lengths, units, rows.width) if layout.packed else None
    shape = (1, sum(placed.lengths)) if placed else (sequences, longest)
    # The index in B * T of each token of the concatenated sequences.
    places = placed.places if placed else [index * longest + np.arange(length) for index, length in enumerate(lengths)]
    places_N = np.concatenate(places)
    source_N = np.concatenate([np.arange(start, end) for start, end in zip(rows.starts, rows.ends, strict=True)])
    tokens_N, weights_N = rows.tokens[source_N], rows.loss_weights[source_N].copy()
    weights_N[np.cumsum([0, *lengths[:-1]])] = 0
    supervised_S = np.flatnonzero(weights_N)
    sources_S = source_N[supervised_S]
    owners_N = np.repeat(np.arange(sequences), lengths)

    def send(array: Array) -> torch.Tensor:
        return sent(torch.from_numpy(np.require(array, requirements=["C", "W"])), device)

    def spread(values_N: Array) -> torch.Tensor:
        filled = np.zeros(math.prod(shape), np.int64)
        filled[places_N] = values_N
        return send(filled.reshape(shape))

    positions_N = np.concatenate([np.arange(length) for length in lengths])
    last = [place[index] for place, index in zip(places, _last_tokens(rows, layout.pad_token), strict=True)]
    return MicroBatch(
        rows=indices,
        sources=sources_S,
        tokens=spread(tokens_N),
        positions=spread(positions_N) if layout.packed else send(np.broadcast_to(np.arange(longest), shape)),
        segments=Segments.of(placed.lengths, device, placed.prompts) if placed else None,
        attention_mask=None if layout.packed else spread(np.ones_like(tokens_N)),
        lengths=spread(np.repeat(lengths, lengths)),
        last=send(np.array(last)),
        target_positions=send(places_N[supervised_S - 1]),
        targets=send(tokens_N[supervised_S].astype(np.int64)),
        weights=send(weights_N[supervised_S]),
        owners=send(owners_N[supervised_S]),
        width=rows.width,
        labels=None if rows.labels is None else send(rows.labels),
        per_token={name: send(values[sources_S]) for name, values in rows.per_token.items()},
        per_row={name: send(values) for name, values in rows.per_row.items()},
    )


@dataclass(frozen=True)
class _Packed:
    """The segments of a packed row (`Segments`), and where each sequence's tokens are in it."""

    lengths: list[int]
    prompts: list[range]
    places: list[npt.NDArray[np.int64]]


def _pack(lengths: list[int], units: list[Unit], width: int) -> _Packed:
    """Place the shared tokens of all units first, then the other tokens of each sequence."""
    shared = [unit.shared for unit in units]
    ends = np.cumsum(shared).tolist()
    prompts = [range(end - count, end) for end, count in zip(ends, shared, strict=True)]
    of_sequences = [prompt for prompt, unit in zip(prompts, units, strict=True) for _ in range(width * len(unit.rows))]
    own = [length - len(prompt) for length, prompt in zip(lengths, of_sequences, strict=True)]
    starts = ends[-1] + np.cumsum([0, *own])
    places = [
        np.concatenate([np.arange(prompt.start, prompt.stop), start + np.arange(count)])
        for prompt, start, count in zip(of_sequences, starts[:-1], own, strict=True)
    ]
    before = [prompt for prompt in prompts if prompt]
    if not before:
        return _Packed(own, [], places)
    return _Packed([*map(len, before), *own], [*(range(0) for _ in before), *of_sequences], places)


def _last_tokens(rows: Rows, pad_token: int | None) -> npt.NDArray[np.int64]:
    """Return, for each sequence, the index of its last token that is not the padding token; if all tokens are padding,
    of its last token."""
    found = []
    for tokens_T, _ in rows:
        real = np.flatnonzero(tokens_T != (-1 if pad_token is None else pad_token))
        found.append(real[-1] if len(real) else len(tokens_T) - 1)
    return np.array(found, np.int64)
