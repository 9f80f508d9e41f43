"""Causal attention of short sequences by matmuls, with a backward pass of its own.

Queries are taken in blocks, each with the keys up to its own end, so that few masked scores are computed. The matrix
product itself scales the scores, and the mask is the addend that the product starts from. The softmax computes in
float32 and rounds its result to the type of the products (worker.engine.model.products).
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch

from worker.engine.model.products import faster_type

BLOCK = 128
"""Approximate number of queries of a block."""


def short_attention(
    query_B_H_Q_D: torch.Tensor, key_B_KV_K_D: torch.Tensor, value_B_KV_K_D: torch.Tensor, scale: float, *, keep: bool
) -> torch.Tensor:
    """Return the attention [B, H, Q, D] of the last Q of K tokens. Each token attends to itself and to the tokens
    before it.

    keep: whether to keep the weights, H · Q · K numbers for each example, for the backward pass. Otherwise the backward
    pass computes them again.
    """
    attended: torch.Tensor = _Short.apply(query_B_H_Q_D, key_B_KV_K_D, value_B_KV_K_D, scale, keep)  # type: ignore[no-untyped-call]
    return attended


class _Short(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_B_H_Q_D: torch.Tensor,
        key_B_KV_K_D: torch.Tensor,
        value_B_KV_K_D: torch.Tensor,
        scale: float,
        keep: bool,
    ) -> torch.Tensor:
        B, H, Q, D = query_B_H_Q_D.shape
        KV, K = key_B_KV_K_D.shape[1:3]
        ctx.scale, ctx.shapes = scale, (query_B_H_Q_D.shape, key_B_KV_K_D.shape, value_B_KV_K_D.shape)
        # Queries that share a key head are stacked, so that keys and values need not be repeated.
        query = query_B_H_Q_D.reshape(B * KV, H // KV, Q, D)
        key, value = (states.reshape(B * KV, K, -1) for states in (key_B_KV_K_D, value_B_KV_K_D))
        saved, dtype = [query, key, value], faster_type(query)
        query, key, value = (states.to(dtype) for states in saved)
        found = query_B_H_Q_D.new_empty(B * KV, H // KV, Q, value.shape[-1])
        for queries in _blocks(Q):
            weights = _weights(query, key, queries, scale)
            attended = weights @ value[:, : weights.shape[-1]]
            found[:, :, queries.start : queries.stop] = attended.view(B * KV, H // KV, len(queries), -1)
            saved += [weights.to(found.dtype)] if keep else []
        ctx.save_for_backward(*saved)
        return found.view(B, H, Q, -1)

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        dtype = faster_type(outer[0])
        query, key, value, *kept = (states.to(dtype) for states in ctx.saved_tensors)
        grad = outer[0].reshape(*query.shape[:3], -1).to(dtype)
        grad_query = torch.empty_like(query)
        # Keys get gradients from several blocks, which are summed in float32.
        summed = torch.promote_types(key.dtype, torch.float32)
        grad_key, grad_value = (torch.zeros_like(states, dtype=summed) for states in (key, value))
        for number, queries in enumerate(_blocks(query.shape[2])):
            weights = kept[number] if kept else _weights(query, key, queries, ctx.scale)
            seen = slice(weights.shape[-1])
            rows, grad_rows = _part(query, queries), _part(grad, queries)
            grad_value[:, seen] += weights.transpose(1, 2) @ grad_rows
            grad_weights = grad_rows @ value[:, seen].transpose(1, 2)
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            grad_rows = torch.baddbmm(rows, grad_scores, key[:, seen], beta=0, alpha=ctx.scale)
            grad_query[:, :, queries.start : queries.stop] = grad_rows.view(*query.shape[:2], len(queries), -1)
            grad_key[:, seen] += torch.baddbmm(key[:, seen], grad_scores.transpose(1, 2), rows, beta=0, alpha=ctx.scale)
        grads = zip((grad_query, grad_key, grad_value), ctx.shapes, strict=True)
        return *(each.to(outer[0].dtype).view(shape) for each, shape in grads), None, None


def _weights(query: torch.Tensor, key: torch.Tensor, queries: range, scale: float) -> torch.Tensor:
    """Return the softmax [B * KV, stacked queries, keys] of a block of queries over the keys up to its end."""
    before = key.shape[1] - query.shape[2] + queries.start  # keys that the whole block attends to
    keys = key[:, : before + len(queries)].transpose(1, 2)
    rows, addend = _part(query, queries), _addend(len(queries), query.shape[1], query.dtype, query.device)
    if not before:
        return torch.baddbmm(addend, rows, keys, alpha=scale).softmax(-1)
    scores = torch.baddbmm(rows[:, :1, :1], rows, keys, beta=0, alpha=scale)
    scores[:, :, before:] += addend
    return scores.softmax(-1)


@lru_cache(maxsize=64)
def _addend(length: int, stacked: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return [stacked * length, length]: -∞ where the key is later than the query, else 0."""
    hidden = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
    return torch.zeros(length, length, dtype=dtype, device=device).masked_fill(hidden, float("-inf")).repeat(stacked, 1)


def _part(states: torch.Tensor, queries: range) -> torch.Tensor:
    """Return the queries of a block, stacked. [B * KV, stacked queries, D]"""
    return states[:, :, queries.start : queries.stop].flatten(1, 2)


def _blocks(length: int) -> Iterator[range]:
    size = -(-length // max(1, round(length / BLOCK)))
    return (range(start, min(start + size, length)) for start in range(0, length, size))
