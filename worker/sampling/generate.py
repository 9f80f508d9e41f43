"""Generation of one answer, token by token, with transformers' own `generate`.

`generate` handles caches, sliding windows and virtual tokens. Attune's TokenSampler chooses the tokens.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from worker.sampling.token_sampler import SampledToken, TokenSampler


class LanguageModel(Protocol):
    """A transformers language model, or a peft model around one."""

    @property
    def device(self) -> torch.device: ...

    def __call__(self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any: ...

    def generate(self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor, **options: object) -> object: ...


class _ForcedTokens:
    """Samples each token and forces `generate`'s greedy decoding to take it."""

    def __init__(self, sampler: TokenSampler, on_token: Callable[[SampledToken], bool]) -> None:
        self._sampler, self._on_token = sampler, on_token
        self._continues = True

    def process_logits(self, tokens_1_T: torch.Tensor, logits_1_V: torch.Tensor) -> torch.Tensor:
        """Sample a token, and return logits from which greedy decoding takes it."""
        token = self._sampler(logits_1_V[0])
        self._continues = self._on_token(token)
        forced_1_V = torch.full_like(logits_1_V, -torch.inf)
        forced_1_V[0, token.id] = 0
        return forced_1_V

    def should_stop(self, tokens_1_T: torch.Tensor, logits_1_V: torch.Tensor, **_: object) -> torch.Tensor:
        return torch.tensor([not self._continues], device=tokens_1_T.device)


def generate(
    model: LanguageModel,
    prompt: Sequence[int],
    sampler: TokenSampler,
    *,
    max_tokens: int,
    on_token: Callable[[SampledToken], bool],
) -> None:
    """Sample at most `max_tokens` tokens after the prompt. Pass each to `on_token`, and stop when that returns
    False."""
    forced = _ForcedTokens(sampler, on_token)
    tokens_1_T = torch.tensor([list(prompt)], device=model.device)
    model.generate(
        input_ids=tokens_1_T,
        attention_mask=torch.ones_like(tokens_1_T),
        max_new_tokens=max_tokens,
        do_sample=False,
        pad_token_id=0,
        logits_processor=[forced.process_logits],
        stopping_criteria=[forced.should_stop],
    )
