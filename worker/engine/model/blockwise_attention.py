"""Causal attention with soft-capping and windows, which no fused kernel supports, without a matrix of T² scores.

One block of queries is computed at a time, with only the keys that it attends to. The backward pass keeps queries, keys
and values, and computes each block's scores again, as FlashAttention does (arXiv:2205.14135).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

BLOCK_SCORES = 1 << 23
"""Maximum number of scores in memory at once, over all heads and examples: 32 MiB in float32, plus some copies."""


@dataclass(frozen=True)
class Rule:
    """The keys that a query attends to, and the scaling of the scores."""

    scale: float
    window: int | None = None
    """A token attends to itself and the window - 1 tokens before it."""
    softcap: float | None = None
    """Scores become softcap · tanh(score / softcap)."""

    def hidden(self, queries: range, keys: range, device: torch.device) -> torch.Tensor:
        """Return the mask [queries, keys], True where the query must not attend to the key."""
        at_Q = torch.arange(queries.start, queries.stop, device=device)
        behind_Q_K = at_Q[:, None] - torch.arange(keys.start, keys.stop, device=device)
        return (behind_Q_K < 0) if self.window is None else (behind_Q_K < 0) | (behind_Q_K >= self.window)


def attend(
    query_B_H_Q_D: torch.Tensor,
    key_B_KV_K_D: torch.Tensor,
    value_B_KV_K_D: torch.Tensor,
    hidden_Q_K: torch.Tensor,
    rule: Rule,
) -> torch.Tensor:
    """Return the attention [B, H, Q, D] by plain matmuls. The softmax is in float32, as in transformers."""
    B, H, Q, D = query_B_H_Q_D.shape
    KV, K = key_B_KV_K_D.shape[1:3]
    # Queries that share a key head are stacked, so that keys and values need not be repeated.
    query_B_KV_GQ_D = query_B_H_Q_D.reshape(B, KV, H // KV * Q, D)
    scores = (query_B_KV_GQ_D @ key_B_KV_K_D.transpose(-1, -2)).view(B, H, Q, K) * rule.scale
    if rule.softcap is not None:
        scores = rule.softcap * torch.tanh(scores / rule.softcap)
    weights = scores.masked_fill(hidden_Q_K, float("-inf")).softmax(-1, dtype=torch.float32).to(value_B_KV_K_D.dtype)
    return (weights.view(B, KV, H // KV * Q, K) @ value_B_KV_K_D).view(B, H, Q, value_B_KV_K_D.shape[-1])


def blockwise_attention(
    query_B_H_Q_D: torch.Tensor, key_B_KV_K_D: torch.Tensor, value_B_KV_K_D: torch.Tensor, rule: Rule
) -> torch.Tensor:
    """Return `attend` of the last Q of K tokens, computed one block of queries at a time."""
    attended: torch.Tensor = _Blockwise.apply(query_B_H_Q_D, key_B_KV_K_D, value_B_KV_K_D, rule)  # type: ignore[no-untyped-call]
    return attended


def blocks(length: int, rows: int, window: int | None, before: int = 0) -> Iterator[tuple[range, range]]:
    """Yield blocks of queries with the keys that they attend to. The queries are the `length` tokens after the first
    `before` ones. `rows`: number of heads, summed over all examples."""
    most = BLOCK_SCORES // rows
    size = most // (before + length)  # if each query of a block attends to all keys
    if window is not None:
        size = max(size, (math.isqrt(window**2 + 4 * most) - window) // 2)  # if only to those of its block and window
    size = max(1, min(length, size))
    for start in range(before, before + length, size):
        queries = range(start, min(before + length, start + size))
        yield queries, range(0 if window is None else max(0, start - window + 1), queries.stop)


class _Saved(Protocol):
    """The fields that the forward pass saves for the backward pass, beside torch's own."""

    rule: Rule
    saved_tensors: tuple[torch.Tensor, ...]

    def save_for_backward(self, *tensors: torch.Tensor) -> None: ...


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Saved, query_B_H_Q_D: torch.Tensor, key_B_KV_K_D: torch.Tensor, value_B_KV_K_D: torch.Tensor, rule: Rule
    ) -> torch.Tensor:
        ctx.rule = rule
        ctx.save_for_backward(query_B_H_Q_D, key_B_KV_K_D, value_B_KV_K_D)
        found = []
        for rows, queries, keys in _blocks(query_B_H_Q_D, key_B_KV_K_D, rule):
            hidden = rule.hidden(queries, keys, query_B_H_Q_D.device)
            parts = (_part(key_B_KV_K_D, keys), _part(value_B_KV_K_D, keys))
            found.append(attend(_part(query_B_H_Q_D, rows), *parts, hidden, rule))
        return torch.cat(found, dim=2)

    @staticmethod
    def backward(ctx: _Saved, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad_B_H_Q_D,), rule = outer, ctx.rule
        states = ctx.saved_tensors
        # Keys get gradients from many blocks, which are summed in float32.
        sums = [torch.zeros_like(each, dtype=torch.float32) for each in states]
        for rows, queries, keys in _blocks(states[0], states[1], rule):
            ranges = (rows, keys, keys)
            with torch.enable_grad():
                parts = [_part(each, at).detach().requires_grad_() for each, at in zip(states, ranges, strict=True)]
                found = attend(parts[0], parts[1], parts[2], rule.hidden(queries, keys, states[0].device), rule)
                grads = torch.autograd.grad(found, parts, _part(grad_B_H_Q_D, rows))
            for total, grad, at in zip(sums, grads, ranges, strict=True):
                _part(total, at).add_(grad)
        return *(total.to(each.dtype) for total, each in zip(sums, states, strict=True)), None


def _blocks(
    query_B_H_Q_D: torch.Tensor, key_B_KV_K_D: torch.Tensor, rule: Rule
) -> Iterator[tuple[range, range, range]]:
    """Yield, for each block, its rows of the queries, their places among the keys, and the keys they attend to."""
    B, H, Q, _ = query_B_H_Q_D.shape
    before = key_B_KV_K_D.shape[2] - Q
    for queries, keys in blocks(Q, B * H, rule.window, before):
        yield range(queries.start - before, queries.stop - before), queries, keys


def _part(states_B_H_T_D: torch.Tensor, at: range) -> torch.Tensor:
    return states_B_H_T_D[:, :, at.start : at.stop]
