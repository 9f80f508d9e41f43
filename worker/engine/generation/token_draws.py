"""Random draws of tokens that do not depend on the batch in which an answer is computed."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from worker.engine.model.attention import sent

TokenArray = npt.NDArray[np.int32]
"""Token ids of one prompt or answer."""


class TokenDraws:
    """Draws the tokens of R answers from softmax(logits / temperature). If the temperature is 0, takes the likeliest
    tokens instead.

    There is no top-k or top-p: the policy-gradient estimate needs samples from the very distribution whose
    log-probabilities enter the loss.
    """

    def __init__(self, seed: Sequence[int], prompts: Sequence[int], *, temperature: float, max_tokens: int) -> None:
        """prompts: the number of each answer's prompt. Answers to the same prompt get different random numbers.

        The random numbers, one in [0, 1) for each token, are drawn here. A token is determined by its number and its
        logits.
        """
        self._temperature = temperature
        uniforms_R_T = np.zeros((len(prompts), max_tokens))
        answers: Counter[int] = Counter()
        for row, prompt in enumerate(prompts if temperature else ()):
            generator = np.random.Generator(np.random.PCG64([*seed, prompt, answers[prompt]]))
            uniforms_R_T[row] = generator.random(max_tokens)
            answers[prompt] += 1
        self._uniforms_R_T = torch.from_numpy(uniforms_R_T)

    def __call__(self, logits_B_V: torch.Tensor, row_B: torch.Tensor, position: int) -> torch.Tensor:
        """Return the tokens [B] of the answers `row_B` at `position`, counted from 0."""
        if not self._temperature:
            return logits_B_V.argmax(-1)
        if self._uniforms_R_T.device != logits_B_V.device:  # at the first token
            self._uniforms_R_T = sent(self._uniforms_R_T, logits_B_V.device)
        return draw(logits_B_V, self._uniforms_R_T[row_B, position], self._temperature)


def draw(logits_B_V: torch.Tensor, uniforms_B: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return tokens [B] of softmax(logits / temperature): the first whose cumulative probability exceeds the uniform
    number. One number draws a token, where `torch.multinomial` needs one for each entry of the vocabulary."""
    logits_B_V = logits_B_V.float()
    if temperature != 1.0:
        logits_B_V = logits_B_V / temperature
    # In float64: sums of 100,000 numbers in float32 would shift the probabilities of rare tokens.
    cumulative_B_V = logits_B_V.softmax(-1).cumsum(-1, dtype=torch.float64)
    tokens_B = torch.searchsorted(cumulative_B_V, uniforms_B[:, None] * cumulative_B_V[:, -1:], right=True)[:, 0]
    return tokens_B.clamp(max=logits_B_V.shape[-1] - 1)
