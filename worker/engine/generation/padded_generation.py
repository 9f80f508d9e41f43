"""Generation of answers with transformers' `generate`, for families and techniques whose rows are padded.

`generate` handles caches of any kind and virtual tokens; the tokens themselves are drawn here.
"""

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from transformers import GenerationConfig, PreTrainedModel

from worker.engine.generation.token_draws import TokenArray, TokenDraws
from worker.engine.model.attention import PACKED
from worker.engine.model.load import plain_attention
from worker.engine.model.trainable import TrainableModel


@torch.no_grad()
def generate_padded(
    model: TrainableModel,
    prompts: Sequence[TokenArray],
    rows_B: npt.NDArray[np.int64],
    draws: TokenDraws,
    *,
    max_tokens: int,
    end_tokens: Set[int],
    pad_token: int,
) -> list[TokenArray]:
    """Return an answer to each of B prompts, computed as one batch with padding before the shorter ones.

    rows_B: the index of each answer in `draws`.
    """
    longest = max(map(len, prompts))
    tokens = torch.full((len(prompts), longest), pad_token)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.from_numpy(prompt.astype(np.int64))
        mask[row, longest - len(prompt) :] = 1

    def force_drawn(tokens_B_T: torch.Tensor, logits_B_V: torch.Tensor) -> torch.Tensor:
        """Return logits from which greedy decoding chooses the drawn tokens."""
        model.keep_alive()  # at each token: long answers take minutes
        drawn_B = draws(logits_B_V, row_B, tokens_B_T.shape[1] - longest)
        return torch.full_like(logits_B_V, -torch.inf).scatter(1, drawn_B[:, None], 0.0)

    row_B = torch.from_numpy(rows_B).to(model.device)
    with _neutral(model.network):
        tokens_B_T = model.model.generate(
            input_ids=tokens.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=sorted(end_tokens) or None,
            pad_token_id=pad_token,
            logits_processor=[force_drawn],
        )
    answers = tokens_B_T[:, longest:].cpu().numpy().astype(np.int32)
    return [_without_padding(answer_T, end_tokens) for answer_T in answers]


def _without_padding(answer_T: TokenArray, end_tokens: Set[int]) -> TokenArray:
    """Return the answer up to its first end token. `generate` pads finished answers after their end token."""
    ends = np.flatnonzero(np.isin(answer_T, list(end_tokens)))
    return answer_T[: ends[0] + 1] if len(ends) else answer_T


@contextmanager
def _neutral(network: PreTrainedModel) -> Iterator[None]:
    """Give the network transformers' own attention and neutral generation settings.

    The attention for packed rows has no key-value cache. The model's generation_config may hold penalties, top-k or a
    temperature, which would change the distribution that the answers are sampled from.
    """
    attention, generation_config = network.config._attn_implementation, network.generation_config
    network.generation_config = GenerationConfig()
    # `generate` gives the head a part of the hidden states that is not contiguous. The CPU's matrix product would then
    # copy the head once for each row.
    contiguous = network.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    if attention == PACKED:
        network.set_attn_implementation(plain_attention(network))
    try:
        yield
    finally:
        contiguous.remove()
        network.generation_config = generation_config
        if attention == PACKED:
            network.set_attn_implementation(attention)
