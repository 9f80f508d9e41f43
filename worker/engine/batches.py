"""Which examples make a step, and how they are laid out in micro-batches of a budget of tokens."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from worker.arrays import Rows
from worker.engine.attention import Segments


@dataclass(frozen=True)
class Layout:
    packed: bool
    """Several examples in one row; else a right-padded batch."""
    alone: bool = False
    """One example per micro-batch."""


@dataclass(frozen=True)
class MicroBatch:
    """Examples on the device, B rows of T places; S of their tokens are supervised."""

    tokens: torch.Tensor
    """[B, T]; B is 1 when packed."""
    positions: torch.Tensor
    """[B, T], from 0 in each example."""
    segments: Segments | None
    """Packed: where in the one row the examples begin and end."""
    attention_mask: torch.Tensor | None
    """[B, T], padded: 1 at real tokens."""
    places: torch.Tensor
    """[S], into B * T: where a supervised token is predicted, at the token before it."""
    targets: torch.Tensor
    """[S]"""
    weights: torch.Tensor
    """[S]"""


def rows_of_step(count: int, batch_size: int, step: int, seed: int) -> npt.NDArray[np.int64]:
    """The rows of optimizer step 1, 2, …: consecutive pieces of each epoch's own permutation, the last one short."""
    steps_per_epoch = math.ceil(count / batch_size)
    epoch, index = divmod(step - 1, steps_per_epoch)
    return _permutation(count, seed, epoch)[index * batch_size : (index + 1) * batch_size]


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(count)


def total_weight(rows: Rows) -> float:
    """The sum of the loss weights. A row's first token is predicted from nothing and never counts."""
    return float(sum(float(weights_T[1:].sum(dtype=np.float64)) for _, weights_T in rows))


def micro_batches(rows: Rows, budget_tokens: int, layout: Layout, device: torch.device) -> Iterator[MicroBatch]:
    for members in plan(rows.lengths.tolist(), budget_tokens, layout):
        examples = [rows.sequence(row) for row in members]
        yield (_pack if layout.packed else _pad)(examples, device)


def plan(lengths: Sequence[int], budget_tokens: int, layout: Layout) -> list[list[int]]:
    """Which examples share a micro-batch. Sorted by length: neighbours then pad little and attend in blocks.

    A longer example than the budget makes a micro-batch of its own.
    """
    groups: list[list[int]] = []
    used = 0
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        used = used + lengths[row] if layout.packed else (len(groups[-1]) + 1) * lengths[row] if groups else 0
        if not groups or layout.alone or used > budget_tokens:
            groups.append([row])
            used = lengths[row]
        else:
            groups[-1].append(row)
    return groups


Example = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]


def _pack(examples: Sequence[Example], device: torch.device) -> MicroBatch:
    lengths = [len(tokens_T) for tokens_T, _ in examples]
    tokens_N = np.concatenate([tokens_T for tokens_T, _ in examples])
    weights_N = np.concatenate([weights_T for _, weights_T in examples])
    weights_N[np.cumsum([0, *lengths[:-1]])] = 0
    positions_N = np.concatenate([np.arange(length) for length in lengths])
    segments = Segments.of(lengths, device)
    return _micro_batch(tokens_N[None], weights_N[None], positions_N[None], segments, None, device)


def _pad(examples: Sequence[Example], device: torch.device) -> MicroBatch:
    shape = (len(examples), max(len(tokens_T) for tokens_T, _ in examples))
    tokens_B_T, mask_B_T = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    weights_B_T = np.zeros(shape, np.float32)
    for row, (tokens_T, weights_T) in enumerate(examples):
        tokens_B_T[row, : len(tokens_T)] = tokens_T
        weights_B_T[row, 1 : len(tokens_T)] = weights_T[1:]
        mask_B_T[row, : len(tokens_T)] = 1
    positions_B_T = np.broadcast_to(np.arange(shape[1]), shape)
    return _micro_batch(tokens_B_T, weights_B_T, positions_B_T, None, mask_B_T, device)


def _micro_batch(
    tokens_B_T: npt.NDArray[np.integer],
    weights_B_T: npt.NDArray[np.float32],
    positions_B_T: npt.NDArray[np.integer],
    segments: Segments | None,
    mask_B_T: npt.NDArray[np.int64] | None,
    device: torch.device,
) -> MicroBatch:
    def send(array: npt.NDArray[np.generic]) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor

    supervised_S = np.flatnonzero(weights_B_T)
    return MicroBatch(
        tokens=send(tokens_B_T.astype(np.int64)),
        positions=send(positions_B_T.astype(np.int64)),
        segments=segments,
        attention_mask=None if mask_B_T is None else send(mask_B_T),
        places=send(supervised_S - 1),
        targets=send(tokens_B_T.flat[supervised_S].astype(np.int64)),
        weights=send(weights_B_T.flat[supervised_S]),
    )
