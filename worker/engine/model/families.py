"""Properties of families of models (`model_type`), each checked by a test of the family.

A family is packed (several examples in one row, and a head that is computed apart from the decoder) only if
PACKED_FAMILIES lists it. It is listed only if tests/worker/engine/model/test_packing.py shows that its loss and
gradients equal those of one example at a time, on examples longer than the family's attention window. Every other
family is padded: it has right-padded batches, and the model computes its own logits.
"""

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from api.estimate.work import PACKED_FAMILIES
from api.spec.base_model import ModelKind
from worker.engine.model.head import Head

AutoClass = type[_BaseAutoModelClass]
"""One of transformers' classes that choose the model's class by its config."""

LENGTH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})
"""Types of rotary embeddings that depend on the longest position in the batch, so that examples must not share one."""

MAMBA_FAMILIES = frozenset({"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"})
"""Families whose fused kernels read the weights of some layers directly, without an adapter's forward."""
MAMBA_BARRED_LAYERS = ["conv1d", "out_proj"]
"""The names of the layers whose weights these kernels read. peft refuses to adapt them."""
POSITIONS_AFTER_PADDING = frozenset(
    {"camembert", "data2vec-text", "ibert", "longformer", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta",
     "xlm-roberta-xl", "xmod"}
)  # fmt: skip
"""Families that number positions from padding_idx + 1, so that fewer positions than max_position_embeddings are left
for tokens."""


def context_window(config: PreTrainedConfig) -> int | None:
    """Return the maximum number of tokens that the model reads at once; None if the config does not give it."""
    before = config.pad_token_id + 1 if config.model_type in POSITIONS_AFTER_PADDING else 0
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > before:
            return value - before
    return None


def kind_of(config: PreTrainedConfig) -> ModelKind:
    """Return the kind of the model. A family of masked language models, such as BERT, is an encoder unless the config
    sets `is_decoder`."""
    masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return "encoder" if masked and not getattr(config, "is_decoder", False) else "causal_lm"


def transformers_class(config: PreTrainedConfig) -> str | None:
    """Return the name of transformers' class for the model; None if there is none."""
    if kind_of(config) == "encoder":
        return MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(config.model_type)
    return MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)


def classifies(config: PreTrainedConfig) -> bool:
    """Return whether transformers has a class of this family with a head for labels."""
    return config.model_type in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES


def recomputes(config: PreTrainedConfig) -> bool:
    """Return whether transformers' class of this family can recompute activations. ALBERT's, MPNet's and others
    cannot."""
    found = _class_of(config)
    return found is not None and found.supports_gradient_checkpointing


def keeps_scores(config: PreTrainedConfig) -> bool:
    """Return whether transformers has no fused attention for this family and keeps T² scores for each head and layer.
    Packed rows use the attention of this package instead."""
    found = _class_of(config)
    return found is not None and not found._supports_sdpa


def _class_of(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """Return transformers' class for the family: of its classifier for an encoder, else of its language model. None if
    transformers has none."""
    classes: Any = AutoModelForSequenceClassification if kind_of(config) == "encoder" else AutoModelForCausalLM
    found: type[PreTrainedModel] | None = classes._model_mapping.get(type(config), None)
    return found


def may_be_packed(config: PreTrainedConfig) -> bool:
    """Return whether several examples may share one row."""
    return config.model_type in PACKED_FAMILIES


def layers_without_adapters(config: PreTrainedConfig) -> list[str]:
    if config.model_type == "deepseek_v4":
        return ["o_a_proj"]  # a linear layer for each group of heads, with another shape than its inputs
    return MAMBA_BARRED_LAYERS if config.model_type in MAMBA_FAMILIES else []


def needs_single_rows(config: PreTrainedConfig) -> bool:
    return _rope_types(getattr(config, "rope_parameters", None)) & LENGTH_DEPENDENT_ROPE != set()


def inference_difference(config: PreTrainedConfig) -> str | None:
    """Return a difference between training and inference that cannot be disabled in this family, as the end of a
    sentence that begins "Models of the family …"; None if there is none."""
    kind = config.model_type
    if kind == "rwkv":
        return "halve their layers' weights in inference, but not those of an adapter"
    if kind == "reformer":
        return "draw at random which tokens attend to each other, and train on texts of one length only"
    if kind == "big_bird" and config.attention_type == "block_sparse":
        return "draw at random in training which tokens attend to each other"
    if kind == "yoso" and not config.use_expectation:
        return "draw at random which tokens attend to each other"
    return None


def _rope_types(parameters: object) -> set[str]:
    """Return the types of rotary embeddings in a config's rope parameters: one dict, or one for each kind of layer."""
    if not isinstance(parameters, dict):
        return set()
    nested = [_rope_types(value) for value in parameters.values()]
    return {str(parameters.get("rope_type", "default"))}.union(*nested)


def head_of(causal_lm: PreTrainedModel) -> Head:
    """Return the function hidden [S, D] → logits [S, V] that the packed families' own forward computes."""
    cap = getattr(causal_lm.config, "final_logit_softcapping", None)
    divisor = getattr(causal_lm.config, "logits_scaling", 1.0)  # Granite's

    def head(hidden_S_D: torch.Tensor) -> torch.Tensor:
        logits_S_V: torch.Tensor = causal_lm.get_output_embeddings()(hidden_S_D)
        logits_S_V = logits_S_V if divisor == 1.0 else logits_S_V / divisor
        return logits_S_V if cap is None else cap * torch.tanh(logits_S_V / cap)

    return head
