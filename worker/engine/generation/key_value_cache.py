"""Keys and values of answers while they are generated, and the attention to them.

`cached_attention` is registered with transformers' `AttentionInterface` for families that support packed rows. Like the
attention for packed rows (worker.engine.model.attention), it raises an error for arguments that it does not implement.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from transformers import AttentionInterface

from worker.engine.model.attention import HARMLESS, sent
from worker.engine.model.blockwise_attention import Rule, attend

CACHED = "attune_cached"

SPARE_POSITIONS = 16

Indices = npt.NDArray[np.int64]


class KeyValueCache:
    """Keys and values of B rows, in blocks [rows, heads, positions, D].

    A token's index in the block is its position in its row, so rows of different lengths need no left padding.
    transformers' layers call `update`.
    """

    def __init__(self, lengths_B: Indices, positions: int, device: torch.device) -> None:
        """lengths_B: number of tokens of each row's prompt. positions: number of tokens of the longest row, including
        its answer. If a row becomes longer, larger blocks are allocated."""
        self._lengths_B, self._device = lengths_B, device
        self._rows, self._positions = len(lengths_B), positions
        self._blocks: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        """Keys and values by layer."""
        self._place(self._on_device(lengths_B.copy()))

    def _on_device(self, array: Indices) -> torch.Tensor:
        return sent(torch.from_numpy(array), self._device)

    def _place(self, position_B: torch.Tensor) -> None:
        self._reach = int(self._lengths_B.max(initial=0)) + 1
        self._fit(len(self._lengths_B), self._reach)
        self.position_B = position_B
        """[B]: the position of each row's next token."""
        self._row_B = torch.arange(len(self._lengths_B), device=self._device)
        self._visible: dict[int | None, torch.Tensor] = {}

    def write(self, layer: int, row_N: torch.Tensor, position_N: torch.Tensor, *states_N_H_D: torch.Tensor) -> None:
        """Store the keys and values of N tokens, [N, heads, D] each."""
        if layer not in self._blocks:
            # Zeros, because attention multiplies entries that are not yet written by 0, and 0 times NaN is NaN.
            key, value = (
                each.new_zeros(self._rows, len(each[0]), self._positions, each.shape[2]) for each in states_N_H_D
            )
            self._blocks[layer] = key, value
        for block, states in zip(self._blocks[layer], states_N_H_D, strict=True):
            block[row_N, :, position_N] = states

    def update(
        self, key_B_KV_1_D: torch.Tensor, value_B_KV_1_D: torch.Tensor, layer: int, *_: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store each row's next token. Return the keys and values of all tokens so far, [B, KV, T, D]."""
        self.write(layer, self._row_B, self.position_B, key_B_KV_1_D[:, :, 0], value_B_KV_1_D[:, :, 0])
        key, value = (block[: len(self._row_B), :, : self._reach] for block in self._blocks[layer])
        return key, value

    def visible(self, window: int | None) -> torch.Tensor:
        """Return the mask [B, T], True at the positions that each row's next token attends to. `window`: the number of
        tokens that a token attends to, itself included; None if it attends to all."""
        if window not in self._visible:
            behind_B_T = self.position_B[:, None] - torch.arange(self._reach, device=self._device)
            self._visible[window] = (behind_B_T >= 0) & (behind_B_T < (window or self._positions))
        return self._visible[window]

    def add(self, lengths_N: Indices) -> Indices:
        """Add rows with prompts of these lengths. Return their indices."""
        first = len(self._lengths_B)
        self._lengths_B = np.concatenate([self._lengths_B, lengths_N])
        self._place(self._on_device(self._lengths_B.copy()))
        return np.arange(first, len(self._lengths_B))

    def _fit(self, rows: int, positions: int) -> None:
        """Allocate larger blocks if these rows or positions do not fit. The new blocks have room for exactly these
        rows, since rows are seldom added, and for a quarter more positions, since each token adds one."""
        if rows <= self._rows and positions <= self._positions:
            return
        self._rows, self._positions = rows, positions + positions // 4 + SPARE_POSITIONS
        for layer, blocks in self._blocks.items():
            key, value = (each.new_zeros(rows, each.shape[1], self._positions, each.shape[3]) for each in blocks)
            for old, new in zip(blocks, (key, value), strict=True):
                kept = (slice(rows), slice(None), slice(min(old.shape[2], positions)))
                new[: len(old), :, kept[2]] = old[kept]
            self._blocks[layer] = key, value

    def advance(self) -> None:
        """Move each row's next position forward by one, after all layers have stored the row's token."""
        self._lengths_B += 1
        self._place(self.position_B + 1)

    def keep(self, kept_B: npt.NDArray[np.bool_]) -> Indices:
        """Keep only the rows where `kept_B` is true. Return the former index of each kept row: the last rows move to
        the freed places, so that few rows are copied."""
        count = int(kept_B.sum())
        order_B = np.arange(count)
        free, moved = np.flatnonzero(~kept_B[:count]), count + np.flatnonzero(kept_B[count:])
        order_B[free] = moved
        if len(free):
            free_F, moved_F = self._on_device(free), self._on_device(moved)
            for blocks in self._blocks.values():
                for block in blocks:
                    block[free_F, :, : self._reach] = block[moved_F, :, : self._reach]
        self._lengths_B = self._lengths_B[order_B]
        self._place(self.position_B[self._on_device(order_B)])
        return order_B


class PackedPrompts:
    """Writes the keys and values of prompts, which are packed in one row, to the rows of a cache that begin with these
    prompts.

    The pass over the prompts uses this object in place of the cache.
    """

    def __init__(
        self, cache: KeyValueCache, lengths: Sequence[int], owners: Sequence[int], rows: Sequence[int]
    ) -> None:
        """lengths: number of tokens of each packed prompt. rows: the cache's rows to fill. owners: for each of these
        rows, the index of its prompt."""
        starts = np.cumsum([0, *lengths])
        places = [(starts[owner], row, lengths[owner]) for owner, row in zip(owners, rows, strict=True)]
        columns = (
            [start + np.arange(length) for start, _, length in places],
            [np.full(length, row) for _, row, length in places],
            [np.arange(length) for *_, length in places],
        )
        self._cache = cache
        self._token_N, self._row_N, self._position_N = (
            sent(torch.from_numpy(np.concatenate(column)), cache.position_B.device) for column in columns
        )

    def update(
        self, key_1_KV_N_D: torch.Tensor, value_1_KV_N_D: torch.Tensor, layer: int, *_: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        states = (each[0].transpose(0, 1)[self._token_N] for each in (key_1_KV_N_D, value_1_KV_N_D))
        self._cache.write(layer, self._row_N, self._position_N, *states)
        return key_1_KV_N_D, value_1_KV_N_D


def cached_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    cached: KeyValueCache | None = None,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """Return the attention of each row's newest token. query [B, H, 1, D], key and value [B, KV, T, D] → [B, 1, H, D].

    The arguments are those of `worker.engine.model.attention.packed_attention`.
    """
    if unknown := {name for name, argument in others.items() if argument is not None} - HARMLESS:
        raise NotImplementedError(f"cached attention does not implement {', '.join(sorted(unknown))}")
    if cached is None:
        raise ValueError(
            "the model did not pass the argument `cached` on to its attention: remove its family from PACKED_FAMILIES"
        )
    if attention_mask is not None or dropout != 0.0 or query.shape[2] != 1:
        raise NotImplementedError("cached attention takes one token of each row, without masks and dropout")
    visible_B_1_1_T = cached.visible(sliding_window)[:, None, None]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if softcap is not None:
        return attend(query, key, value, ~visible_B_1_1_T, Rule(scale, softcap=softcap)).transpose(1, 2), None
    # Query heads that share a key head become several queries of one head, so keys and values need not be repeated.
    query_B_KV_G_D = query.view(len(query), key.shape[1], -1, query.shape[-1])
    attended = functional.scaled_dot_product_attention(query_B_KV_G_D, key, value, visible_B_1_1_T, scale=scale)
    return attended.reshape(len(query), 1, query.shape[1], -1), None


AttentionInterface.register(CACHED, cached_attention)
