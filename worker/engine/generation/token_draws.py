"""Random draws of tokens that do not depend on the batch in which an answer is computed."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from worker.engine.model.attention import sent

TokenArray = npt.NDArray[np.int32]
"""Token ids of one prompt or answer."""
BLOCK = 128
"""Entries of the vocabulary whose probabilities are summed together. It divides most vocabularies."""


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
    vocabulary = logits_B_V.shape[-1]
    if temperature != 1.0:
        logits_B_V = logits_B_V.float() / temperature
    probabilities_B_V = logits_B_V.softmax(-1, dtype=torch.float32)
    if vocabulary % BLOCK:
        probabilities_B_V = functional.pad(probabilities_B_V, (0, -vocabulary % BLOCK))
    # First the block is drawn, then a token of it: cumulative sums of all entries take longer than the softmax.
    # In float64: sums of 100,000 numbers in float32 would shift the probabilities of rare tokens.
    blocks_B_N_M = probabilities_B_V.view(len(logits_B_V), -1, BLOCK)
    ends_B_N = blocks_B_N_M.sum(-1, dtype=torch.float64).cumsum(-1)
    drawn_B_1 = uniforms_B[:, None] * ends_B_N[:, -1:]
    block_B_1 = _first_above(drawn_B_1, ends_B_N)
    starts_B_N = functional.pad(ends_B_N, (1, 0))
    within_B_M = blocks_B_N_M[torch.arange(len(logits_B_V), device=logits_B_V.device), block_B_1[:, 0]]
    ends_B_M = starts_B_N.gather(1, block_B_1) + within_B_M.cumsum(-1, dtype=torch.float64)
    return (BLOCK * block_B_1 + _first_above(drawn_B_1, ends_B_M))[:, 0].clamp(max=vocabulary - 1)


def _first_above(drawn_B_1: torch.Tensor, ends_B_N: torch.Tensor) -> torch.Tensor:
    """Return the index of the first end above the drawn number, [B, 1].

    A number that rounding puts at the last end, or above it, counts as the one just below: entries of probability 0 may
    follow. NaN, of a model that diverged, gives some valid index.
    """
    last_B_1 = ends_B_N[:, -1:]
    below_B_1 = drawn_B_1.minimum(last_B_1.nextafter(torch.zeros_like(last_B_1)))
    return torch.searchsorted(ends_B_N, below_B_1, right=True).clamp(max=ends_B_N.shape[-1] - 1)
