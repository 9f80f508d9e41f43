"""Log-probabilities of a prompt's own tokens, for answers that repeat their prompt (`echo`)."""

from collections.abc import Sequence

import torch

from worker.sampling.generate import LanguageModel
from worker.sampling.refused import RequestRefused
from worker.sampling.token_sampler import SampledToken, scored

MAX_LOGITS_BYTES = 4 << 30
"""Maximum size in bytes of the logits of a prompt, which are all in memory at once."""
ROWS = 64
"""Number of positions whose log-probabilities are computed together."""


@torch.inference_mode()
def scored_prompt(model: LanguageModel, prompt: Sequence[int], vocabulary: int, top: int | None) -> list[SampledToken]:
    """Return the prompt's tokens with their log-probabilities, except for the first, which nothing predicts.

    `top`: number of likeliest tokens to return at each position; None: return no log-probabilities. Raises
    RequestRefused if the prompt is too long for MAX_LOGITS_BYTES.
    """
    if top is None:
        return [SampledToken(token) for token in prompt]
    if len(prompt) * vocabulary * 4 > MAX_LOGITS_BYTES:
        longest = MAX_LOGITS_BYTES // vocabulary // 4
        message = (
            f"With echo and logprobs, a prompt for this model may have at most {longest} tokens, not {len(prompt)}."
        )
        raise RequestRefused(message, param="prompt", code="prompt_too_long")
    tokens_1_T = torch.tensor([list(prompt)], device=model.device)
    logits_T_V = model(input_ids=tokens_1_T, attention_mask=torch.ones_like(tokens_1_T)).logits[0]
    logits_T_V = logits_T_V[-len(prompt) :]  # without those of an adapter's virtual tokens
    found = [SampledToken(prompt[0], None, None)]
    for start in range(0, len(prompt) - 1, ROWS):
        following = prompt[start + 1 : start + 1 + ROWS]
        logprobs_R_V = logits_T_V[start : start + len(following)].float().log_softmax(-1)
        found += [scored(token, row_V, top) for token, row_V in zip(following, logprobs_R_V, strict=True)]
    return found
