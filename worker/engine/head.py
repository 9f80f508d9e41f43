"""The loss head: logits only where a token is predicted for the loss, and only a chunk of them at a time.

For a vocabulary of 150,000 the logits of one packed row would outweigh everything else in memory together.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

CHUNK_LOGITS = 1 << 25
"""Logits that exist at once: 32 M, 128 MB in float32."""

FEWEST_ROWS = 4

Head = Callable[[torch.Tensor], torch.Tensor]
"""hidden [S, D] → logits [S, V], soft-capping included."""


def token_logprobs(
    hidden_S_D: torch.Tensor, head: Head, targets_S: torch.Tensor, *, vocabulary: int, trained: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probability of each target, 1.0 where it is the likeliest token), both float32 [S].

    `trained` are the head's own parameters that want a gradient: none under most adapters.
    """
    rows = max(1, CHUNK_LOGITS // vocabulary)
    logprobs_S, hits_S = _ChunkedHead.apply(hidden_S_D, head, rows, targets_S, *trained)  # type: ignore[no-untyped-call]
    return logprobs_S, hits_S


def score(logits_S_V: torch.Tensor, targets_S: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`token_logprobs` of logits at hand. The softmax is in float32, whatever the logits are."""
    logits_S_V = logits_S_V.float()
    hits_S = (logits_S_V.argmax(-1) == targets_S).float()
    return -functional.cross_entropy(logits_S_V, targets_S, reduction="none"), hits_S


def _logits(head: Head, hidden_S_D: torch.Tensor) -> torch.Tensor:
    """`head`, never of fewer than four rows: with those, the CPU's product that sums the gradient over the vocabulary
    adds 49,152 terms one after the other, and was off by 7e-5 instead of 4e-7 (docs/engine-log.md).
    """
    missing = FEWEST_ROWS - len(hidden_S_D)
    if missing <= 0 or not len(hidden_S_D):
        return head(hidden_S_D)
    return head(torch.cat([hidden_S_D, hidden_S_D[:1].expand(missing, -1)]))[:-missing]


class _ChunkedHead(torch.autograd.Function):
    """A frozen head's gradient is taken in the forward pass, while the logits are at hand: each row's hidden state
    reaches its own log-probability alone, so that backward only scales it. A trained head's gradient mixes the rows
    and has to wait for their scales: backward computes the logits again.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_S_D: torch.Tensor, head: Head, rows: int, targets_S: torch.Tensor, *trained: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.head, ctx.rows, ctx.trained = head, rows, trained
        now = ctx.needs_input_grad[0] and not trained
        logprobs, hits = [], []
        grads: list[torch.Tensor] = []
        for part, targets in zip(torch.split(hidden_S_D, rows), torch.split(targets_S, rows), strict=True):
            with torch.set_grad_enabled(now):
                hidden = part.detach().requires_grad_(now)
                part_logprobs, part_hits = score(_logits(head, hidden), targets)
                if now:
                    grads += torch.autograd.grad(part_logprobs.sum(), hidden)
            logprobs.append(part_logprobs.detach())
            hits.append(part_hits)
        ctx.save_for_backward(torch.cat(grads) if now else hidden_S_D, targets_S)
        hits_S = torch.cat(hits)
        ctx.mark_non_differentiable(hits_S)
        return torch.cat(logprobs), hits_S

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        saved_S_D, targets_S = ctx.saved_tensors
        scales_S = outer[0]
        if not ctx.trained:
            return (saved_S_D * scales_S[:, None]).to(saved_S_D.dtype), None, None, None
        hidden_grads = []
        totals = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in ctx.trained]
        parts, rows = (saved_S_D, targets_S, scales_S), ctx.rows
        for part, targets, scales in zip(*(torch.split(whole, rows) for whole in parts), strict=True):
            with torch.enable_grad():
                hidden = part.detach().requires_grad_()
                logprobs, _ = score(_logits(ctx.head, hidden), targets)
                hidden_grad, *grads = torch.autograd.grad((logprobs * scales).sum(), [hidden, *ctx.trained])
            hidden_grads.append(hidden_grad)
            torch._foreach_add_(totals, [grad.float() for grad in grads])
        back = (total.to(parameter.dtype) for total, parameter in zip(totals, ctx.trained, strict=True))
        return torch.cat(hidden_grads), None, None, None, *back
