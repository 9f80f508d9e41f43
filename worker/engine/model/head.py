"""The loss head: logits only of supervised tokens, and only a chunk of them at a time.

With a vocabulary of 150,000 the logits of one packed row would need more memory than everything else together.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional

from api.estimate.memory import CHUNK_LOGITS

FEWEST_ROWS = 4

Head = Callable[[torch.Tensor], torch.Tensor]
"""hidden [S, D] → logits [S, V], soft-capping included."""


@dataclass(frozen=True)
class Scoring:
    """Options of the scores of a predicted token."""

    temperature: float = 1.0
    """The distribution is softmax(logits / temperature)."""
    smoothing: float = 0.0
    """ε: `smoothed_logprobs` are (1 - ε) log p(token) + ε mean over the vocabulary of log p (Szegedy et al. 2016)."""
    entropies: bool = False
    learns_entropies: bool = False


@dataclass(frozen=True)
class TokenScores:
    """Scores of the supervised tokens. Each field is float32 [S]."""

    smoothed_logprobs: torch.Tensor
    """The token's log-probability, smoothed if `Scoring.smoothing` is set, with a gradient. Losses are computed from
    it."""
    logprobs: torch.Tensor
    """The token's log-probability, without a gradient."""
    correct: torch.Tensor
    """1.0 where the token is the most likely one."""
    entropies: torch.Tensor
    """Entropy in nats of the distribution that predicts the token; zeros unless `Scoring.entropies`."""


def token_scores(
    hidden_S_D: torch.Tensor,
    head: Head,
    targets_S: torch.Tensor,
    scoring: Scoring,
    *,
    vocabulary: int,
    trained: Sequence[torch.Tensor],
) -> TokenScores:
    """Return the scores of the targets, computed one chunk of rows at a time.

    `trained`: the head's parameters that need a gradient; with most adapters there are none.
    """
    rows = max(1, CHUNK_LOGITS // vocabulary)
    arguments = (hidden_S_D, head, rows, targets_S, scoring, *trained)
    return TokenScores(*_ChunkedHead.apply(*arguments))  # type: ignore[no-untyped-call]


def score(logits_S_V: torch.Tensor, targets_S: torch.Tensor, scoring: Scoring) -> TokenScores:
    """Return the scores of the targets from logits [S, V]. The softmax is in float32, whatever the type of the
    logits."""
    logits_S_V = logits_S_V.float()
    correct_S = (logits_S_V.max(-1).indices == targets_S).float()  # argmax takes half as long again
    if scoring.temperature != 1.0:
        logits_S_V = logits_S_V / scoring.temperature
    if not (scoring.smoothing or scoring.entropies):
        logprobs_S = -functional.cross_entropy(logits_S_V, targets_S, reduction="none")
        return TokenScores(logprobs_S, logprobs_S.detach(), correct_S, torch.zeros_like(logprobs_S))
    logprobs_S_V = logits_S_V.log_softmax(-1)
    logprobs_S = logprobs_S_V.gather(1, targets_S[:, None])[:, 0]
    smoothed_S = logprobs_S
    if scoring.smoothing:
        smoothed_S = (1 - scoring.smoothing) * logprobs_S + scoring.smoothing * logprobs_S_V.mean(-1)
    entropies_S = torch.zeros_like(logprobs_S)
    if scoring.entropies:
        with torch.set_grad_enabled(torch.is_grad_enabled() and scoring.learns_entropies):
            entropies_S = -(logprobs_S_V.exp() * logprobs_S_V).sum(-1)
    return TokenScores(smoothed_S, logprobs_S.detach(), correct_S, entropies_S)


def _logits(head: Head, hidden_S_D: torch.Tensor) -> torch.Tensor:
    """Return the head's logits, computed for at least four rows. With fewer rows, the CPU's matrix product for the
    gradient adds the terms of the vocabulary one after the other. With a vocabulary of 49,152, the error is then
    7e-5 instead of 4e-7 (docs/engine-log.md)."""
    missing = FEWEST_ROWS - len(hidden_S_D)
    if missing <= 0 or not len(hidden_S_D):
        return head(hidden_S_D)
    return head(torch.cat([hidden_S_D, hidden_S_D[:1].expand(missing, -1)]))[:-missing]


class _Saved(Protocol):
    """The fields that the forward pass saves for the backward pass."""

    head: Head
    rows: int
    scoring: Scoring
    trained: tuple[torch.Tensor, ...]
    random: tuple[torch.Tensor, ...]
    saved_tensors: tuple[torch.Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: torch.Tensor) -> None: ...

    def mark_non_differentiable(self, *tensors: torch.Tensor) -> None: ...


class _ChunkedHead(torch.autograd.Function):
    """The head and its scores, one chunk of rows at a time.

    If the head is frozen, the gradient is computed in the forward pass, where the logits exist. A row's hidden state
    affects only the row's own scores, so the backward pass only has to scale the gradient. The gradient of a trained
    head is a sum over rows, weighted by scales that are known only in the backward pass. The backward pass therefore
    computes the logits again, with the same random numbers, since an adapter of the head may have dropout.
    """

    @staticmethod
    def forward(
        ctx: _Saved,
        hidden_S_D: torch.Tensor,
        head: Head,
        rows: int,
        targets_S: torch.Tensor,
        scoring: Scoring,
        *trained: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        ctx.head, ctx.rows, ctx.scoring, ctx.trained = head, rows, scoring, trained
        ctx.random = _random_state(hidden_S_D.device) if trained else ()
        now = ctx.needs_input_grad[0] and not trained
        parts: list[TokenScores] = []
        grads: list[list[torch.Tensor]] = []
        for hidden_part, targets in zip(torch.split(hidden_S_D, rows), torch.split(targets_S, rows), strict=True):
            with torch.set_grad_enabled(now):
                hidden = hidden_part.detach().requires_grad_(now)
                found = score(_logits(head, hidden), targets, scoring)
                if now:
                    grads.append(_row_gradients(_differentiable(found, scoring), hidden))
            parts.append(TokenScores(*(each.detach() for each in vars(found).values())))
        ctx.save_for_backward(targets_S, *map(torch.cat, zip(*grads, strict=True)) if now else [hidden_S_D])
        smoothed, logprobs, correct, entropies = (
            torch.cat([getattr(part, name) for part in parts])
            for name in ("smoothed_logprobs", "logprobs", "correct", "entropies")
        )
        ctx.mark_non_differentiable(logprobs, correct, *() if scoring.learns_entropies else (entropies,))
        return smoothed, logprobs, correct, entropies

    @staticmethod
    def backward(ctx: _Saved, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        targets_S, *saved = ctx.saved_tensors
        scales = [outer[0], outer[3]] if ctx.scoring.learns_entropies else [outer[0]]
        if not ctx.trained:
            back = sum(grad_S_D * scales_S[:, None] for grad_S_D, scales_S in zip(saved, scales, strict=True))
            assert isinstance(back, torch.Tensor)
            return back.to(saved[0].dtype), None, None, None, None
        hidden_grads = []
        totals = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in ctx.trained]
        wholes = (saved[0], targets_S, *scales)
        with _repeated(ctx.random, saved[0].device), torch.enable_grad():
            for part, targets, *part_scales in zip(*(torch.split(whole, ctx.rows) for whole in wholes), strict=True):
                hidden = part.detach().requires_grad_()
                found = _differentiable(score(_logits(ctx.head, hidden), targets, ctx.scoring), ctx.scoring)
                total = torch.stack([(each * by).sum() for each, by in zip(found, part_scales, strict=True)]).sum()
                hidden_grad, *grads = torch.autograd.grad(total, [hidden, *ctx.trained])
                hidden_grads.append(hidden_grad)
                torch._foreach_add_(totals, [grad.float() for grad in grads])
        trained = (total.to(parameter.dtype) for total, parameter in zip(totals, ctx.trained, strict=True))
        return torch.cat(hidden_grads), None, None, None, None, *trained


def _differentiable(scores: TokenScores, scoring: Scoring) -> list[torch.Tensor]:
    """Return the scores that need a gradient."""
    return [scores.smoothed_logprobs, scores.entropies] if scoring.learns_entropies else [scores.smoothed_logprobs]


def _row_gradients(scores: list[torch.Tensor], hidden_S_D: torch.Tensor) -> list[torch.Tensor]:
    """Return the gradient of each score [S] in its row's hidden state, and free the graph: otherwise, the logits of all
    chunks would be kept."""
    *others, last = [score_S.sum() for score_S in scores]
    found = [torch.autograd.grad(each, hidden_S_D, retain_graph=True)[0] for each in others]
    return [*found, torch.autograd.grad(last, hidden_S_D)[0]]


def _random_state(device: torch.device) -> tuple[torch.Tensor, ...]:
    """Return the state of the host's random generator and, on a GPU, also of the GPU's generator."""
    return torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])


@contextmanager
def _repeated(states: tuple[torch.Tensor, ...], device: torch.device) -> Iterator[None]:
    """Set the random generators to `states` within the context, and back to their present states afterwards."""
    on_gpu = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=on_gpu):
        torch.set_rng_state(states[0])
        for state in states[1:]:
            torch.cuda.set_rng_state(state, device)
        yield
