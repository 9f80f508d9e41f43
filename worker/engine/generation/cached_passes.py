"""Forward passes of a network with a key-value cache: over all prompts, and over one new token of each row."""

import torch
from transformers import PreTrainedModel

from worker.engine.generation.key_value_cache import KeyValueCache, PackedPrompts
from worker.engine.model.attention import Segments


def prompts_pass(
    network: PreTrainedModel,
    tokens_1_N: torch.Tensor,
    positions_1_N: torch.Tensor,
    segments: Segments,
    filled: PackedPrompts,
) -> torch.Tensor:
    """Fill a cache with prompts that are packed in one row. Return the hidden states [N, D]."""
    hidden_1_N_D: torch.Tensor = network.base_model(
        input_ids=tokens_1_N, position_ids=positions_1_N, segments=segments, past_key_values=filled, use_cache=True
    ).last_hidden_state
    return hidden_1_N_D[0]


def token_pass(network: PreTrainedModel, token_B: torch.Tensor, cache: KeyValueCache) -> torch.Tensor:
    """Add a token to each row of the cache. Return the tokens' last hidden states, [B, D]."""
    hidden_B_1_D: torch.Tensor = network.base_model(
        input_ids=token_B[:, None],
        position_ids=cache.position_B[:, None],
        past_key_values=cache,
        cached=cache,
        use_cache=True,
    ).last_hidden_state
    cache.advance()
    return hidden_B_1_D[:, 0]
