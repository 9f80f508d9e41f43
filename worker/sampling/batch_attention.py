"""The attention of batches of answers: over packed prompts, and of each row's newest token."""

import torch
from transformers import AttentionInterface

from worker.engine.generation.key_value_cache import KeyValueCache, cached_attention
from worker.engine.model.attention import Segments, packed_attention

BATCHED = "attune_batched"


def batched_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segments: Segments | None = None,
    cached: KeyValueCache | None = None,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """Return the attention of packed prompts where the pass has segments, else that of cached rows."""
    states = (module, query, key, value, attention_mask)
    if segments is not None:
        return packed_attention(*states, segments=segments, **others)  # type: ignore[arg-type]
    return cached_attention(*states, cached=cached, **others)  # type: ignore[arg-type]


AttentionInterface.register(BATCHED, batched_attention)
