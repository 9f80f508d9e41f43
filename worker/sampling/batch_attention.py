"""The attention of answers that are generated together: within packed prompts, and of each row's newest token to the
cache."""

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
    """Return the attention within packed prompts if the pass has `segments`; otherwise the attention of each row's
    newest token to the cache."""
    states = (module, query, key, value, attention_mask)
    if segments is not None:
        return packed_attention(*states, segments=segments, **others)  # type: ignore[arg-type]
    return cached_attention(*states, cached=cached, **others)  # type: ignore[arg-type]


AttentionInterface.register(BATCHED, batched_attention)
