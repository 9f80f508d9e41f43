"""What the trainer knows about families of models (`model_type`), each claim kept by a test of that family.

A family may be packed (several examples in one row, the head apart from the decoder) only when it is named here, and
it is named only when tests/worker/test_packing.py shows its loss and gradients equal to one example at a time, on
examples longer than its window. Every other family takes the padded path: right-padded batches, the model's own logits.
"""

from typing import Any

import torch

from worker.engine.head import Head

PACKED_FAMILIES = frozenset({"gemma2", "gpt2", "llama", "mistral", "phi", "phi3", "qwen2", "qwen3"})

LENGTH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})
"""Rotary embeddings that change with the longest position in the batch: examples must not share one."""

MAMBA_FAMILIES = frozenset({"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"})
"""Their fused kernels read some layers' weights past an adapter's forward; peft refuses to put one there …"""
MAMBA_BARRED_LAYERS = ["conv1d", "out_proj"]
"""… namely here."""


def may_be_packed(config: Any) -> bool:
    return config.model_type in PACKED_FAMILIES


def layers_without_adapters(config: Any) -> list[str]:
    return MAMBA_BARRED_LAYERS if config.model_type in MAMBA_FAMILIES else []


def examples_stay_alone(config: Any) -> bool:
    return _rope_types(getattr(config, "rope_parameters", None)) & LENGTH_DEPENDENT_ROPE != set()


def _rope_types(parameters: Any) -> set[str]:
    """Rope parameters are one dict, or one for each kind of layer."""
    if not isinstance(parameters, dict):
        return set()
    nested = [_rope_types(value) for value in parameters.values()]
    return {str(parameters.get("rope_type", "default"))}.union(*nested)


def head_of(causal_lm: Any) -> Head:
    """hidden [S, D] → logits [S, V], as the packed families' own forward computes them."""
    cap = getattr(causal_lm.config, "final_logit_softcapping", None)

    def head(hidden_S_D: torch.Tensor) -> torch.Tensor:
        logits_S_V: torch.Tensor = causal_lm.get_output_embeddings()(hidden_S_D)
        return logits_S_V if cap is None else cap * torch.tanh(logits_S_V / cap)

    return head
