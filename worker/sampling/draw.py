"""From logits to the next token, and what is told of it."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Drawn:
    id: int
    logprob: float = 0.0
    """Of the model's own distribution, in nats: before temperature and top_p."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens there, and their log-probabilities."""


class Draw:
    def __init__(self, *, temperature: float, top_p: float, seed: int | None, top_logprobs: int | None) -> None:
        self._temperature, self._top_p, self._top = temperature, top_p, top_logprobs
        self._generator = torch.Generator()  # on the CPU: a seed then means the same on every machine
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def __call__(self, logits_V: torch.Tensor) -> Drawn:
        logits_V = logits_V.float()
        token = int(logits_V.argmax()) if self._temperature == 0 else self._drawn(logits_V)
        if self._top is None:
            return Drawn(token)
        logprobs_V = torch.log_softmax(logits_V, dim=-1)
        values, ids = logprobs_V.topk(min(self._top, len(logprobs_V)))
        top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
        return Drawn(token, float(logprobs_V[token]), top)

    def _drawn(self, logits_V: torch.Tensor) -> int:
        # The largest is subtracted first, so that a tiny temperature divides no large number.
        chances_V = torch.softmax((logits_V - logits_V.max()) / self._temperature, dim=-1).cpu()
        if self._top_p < 1:
            chances_V = nucleus(chances_V, self._top_p)
        return int(torch.multinomial(chances_V, 1, generator=self._generator))


def nucleus(chances_V: torch.Tensor, top_p: float) -> torch.Tensor:
    """The fewest likeliest tokens that together have `top_p`; 0 for all others. Holtzman et al. 2020
    (arXiv:1904.09751)."""
    sorted_V, order_V = chances_V.sort(descending=True)
    before_V = sorted_V.cumsum(0) - sorted_V
    sorted_V[before_V >= top_p] = 0
    return torch.zeros_like(chances_V).scatter(0, order_V, sorted_V)
