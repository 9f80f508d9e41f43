"""Sampling of the next token from logits."""

from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True)
class SampledToken:
    id: int
    logprob: float | None = None
    """Log-probability in nats under the model's own distribution: before temperature, top_p and constraint. None: not
    computed."""
    top: tuple[tuple[int, float], ...] | None = None
    """The most likely tokens at this position, with their log-probabilities."""


class Constraint(Protocol):
    """A limit on the tokens of one answer, such as a grammar and the answer's position in it."""

    @property
    def complete(self) -> bool:
        """Whether the answer is complete, so that no token follows."""

    def limit(self, logits_V: torch.Tensor) -> torch.Tensor:
        """Return new logits, -inf for each token that may not be next."""

    def accept(self, token_id: int) -> None:
        """Record the sampled token, which the next `limit` builds on."""


class TokenSampler:
    """Samples tokens with temperature and top_p; temperature 0 is greedy. The same seed gives the same tokens."""

    def __init__(
        self,
        *,
        temperature: float,
        top_p: float,
        seed: int | None,
        top_logprobs: int | None,
        constraint: Constraint | None = None,
    ) -> None:
        self._temperature, self._top_p, self._top = temperature, top_p, top_logprobs
        self._constraint = constraint
        self._generator = torch.Generator()  # on the CPU, where a seed gives the same numbers on every machine
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    @property
    def complete(self) -> bool:
        """Whether the constraint allows no further token."""
        return self._constraint is not None and self._constraint.complete

    def __call__(self, logits_V: torch.Tensor) -> SampledToken:
        logits_V = logits_V.float()
        allowed_V = logits_V if self._constraint is None else self._constraint.limit(logits_V)
        token = int(allowed_V.argmax()) if self._temperature == 0 else self._sample(allowed_V)
        if self._constraint is not None:
            self._constraint.accept(token)
        if self._top is None:
            return SampledToken(token)
        return scored(token, torch.log_softmax(logits_V, dim=-1), self._top)

    def _sample(self, logits_V: torch.Tensor) -> int:
        # Subtracting the largest logit first keeps a tiny temperature from overflowing.
        probs_V = torch.softmax((logits_V - logits_V.max()) / self._temperature, dim=-1).cpu()
        if self._top_p < 1:
            probs_V = nucleus(probs_V, self._top_p)
        return int(torch.multinomial(probs_V, 1, generator=self._generator))


def scored(token: int, logprobs_V: torch.Tensor, top: int) -> SampledToken:
    """Return the token with its log-probability, and the `top` most likely tokens."""
    values, ids = logprobs_V.topk(min(top, len(logprobs_V)))
    return SampledToken(token, float(logprobs_V[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))


def nucleus(probs_V: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return the probabilities of the tokens of the nucleus, and 0 for all others: Holtzman et al. 2020
    (arXiv:1904.09751).

    The nucleus is the smallest set of most likely tokens whose probabilities sum to at least `top_p`.
    """
    sorted_V, order_V = probs_V.sort(descending=True)
    before_V = sorted_V.cumsum(0) - sorted_V
    sorted_V[before_V >= top_p] = 0
    return torch.zeros_like(probs_V).scatter(0, order_V, sorted_V)
