"""One answer, token by token, by transformers' own `generate`: caches, windows and virtual tokens are its work."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from worker.sampling.draw import Draw, Drawn


class _Steps:
    """Draws each token, and has greedy decoding take it; then says whether that was the last."""

    def __init__(self, draw: Draw, take: Callable[[Drawn], bool]) -> None:
        self._draw, self._take = draw, take
        self._going_on = True

    def choose(self, tokens_1_T: torch.Tensor, logits_1_V: torch.Tensor) -> torch.Tensor:
        token = self._draw(logits_1_V[0])
        self._going_on = self._take(token)
        chosen_1_V = torch.full_like(logits_1_V, -torch.inf)
        chosen_1_V[0, token.id] = 0
        return chosen_1_V

    def ended(self, tokens_1_T: torch.Tensor, logits_1_V: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.tensor([not self._going_on], device=tokens_1_T.device)


def generate(model: Any, prompt: Sequence[int], draw: Draw, *, max_tokens: int, take: Callable[[Drawn], bool]) -> None:
    """Draw at most `max_tokens` tokens after the prompt, and hand over each until `take` says that it was the last."""
    steps = _Steps(draw, take)
    tokens_1_T = torch.tensor([list(prompt)], device=model.device)
    model.generate(
        input_ids=tokens_1_T,
        attention_mask=torch.ones_like(tokens_1_T),
        max_new_tokens=max_tokens,
        do_sample=False,
        pad_token_id=0,
        logits_processor=[steps.choose],
        stopping_criteria=[steps.ended],
    )
