"""The shapes of a base model's layers, from its configuration alone: no weights are allocated.

api.estimate.shapes uses the shapes to count, before training, the weights that a technique trains.
"""

import re
from collections import defaultdict

import torch
from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as IA3_FEEDFORWARD,
)
from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as IA3_TARGETS,
)
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from api.spec.base_model import ClassifierShape, Layer, Shapes
from worker.bases.experts import expert_layers
from worker.engine.model.families import AutoClass, classifies, kind_of, layers_without_adapters
from worker.techniques.bottleneck_families import FAMILIES

NUMBER = re.compile(r"\.\d+(?=\.)")


def shapes_of(config: PreTrainedConfig) -> Shapes:
    """Return the shapes of the layers of a causal language model or an encoder. `config`: its `PreTrainedConfig`."""
    text = config.get_text_config()
    causal = kind_of(config) == "causal_lm"
    model = _on_meta(AutoModelForCausalLM, config) if causal else None
    classifier = _classifier(config) if classifies(config) else None
    network = model or (_on_meta(AutoModelForSequenceClassification, config) if classifier else None)
    described = text.to_dict()
    hidden = text.hidden_size  # not from `described`: some configs compute it in a property
    heads = described.get("num_attention_heads") or described.get("n_head") or 1
    kv_heads = described.get("num_key_value_heads")
    family = FAMILIES.get(config.model_type)
    return Shapes(
        layers=layers_of(network) if network is not None else {},
        parameters=_count(model) if model is not None else None,
        classifier=classifier,
        width=hidden,
        key_values=hidden if kv_heads is None else kv_heads * (described.get("head_dim") or hidden // heads),
        ia3=ia3_names(config.model_type),
        bottlenecks=None
        if family is None
        else {placement: len(family.places(placement)) for placement in ("houlsby", "pfeiffer")},
    )


def ia3_names(family: str) -> dict[str, list[str]] | None:
    """Return the names of the layers that (IA)³ scales by default; None if peft has none for the family."""
    targets = IA3_TARGETS.get(family)
    return None if targets is None else {"targets": targets, "feedforward": IA3_FEEDFORWARD[family]}


def _on_meta(auto: AutoClass, config: PreTrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = auto.from_config(config, trust_remote_code=False)
    return model


def _classifier(config: PreTrainedConfig) -> ClassifierShape:
    two, three = (_labelled(config, labels) for labels in (2, 3))
    inside = f"{two.base_model_prefix}."
    return ClassifierShape(
        parameters=_count(two),
        per_label=_count(three) - _count(two),
        outside=sum(each.numel() for name, each in two.named_parameters() if not name.startswith(inside)),
    )


def _labelled(config: PreTrainedConfig, labels: int) -> PreTrainedModel:
    described = type(config).from_dict(config.to_dict())
    described.num_labels = labels
    return _on_meta(AutoModelForSequenceClassification, described)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def layers_of(network: PreTrainedModel) -> dict[str, Layer]:
    """Return every layer that an adapter may be placed beside, by name. Layers whose names differ only in a number
    share an entry."""
    barred = layers_without_adapters(network.config)
    found: dict[tuple[str, str, tuple[int, ...]], list[str]] = defaultdict(list)
    of_experts = expert_layers(network)
    for name, module in network.named_modules():
        shape = _shape(module)
        if shape is not None and name not in of_experts and name.rpartition(".")[2] not in barred:
            found[NUMBER.sub(".{}", name, count=1), _kind(network, module), shape].append(name)
    for name, (kind, *sizes_of_expert) in of_experts.items():
        found[NUMBER.sub(".{}", name, count=1), kind, tuple(sizes_of_expert)].append(name)
    layers: dict[str, Layer] = {}
    for (pattern, kind, sizes), names in found.items():
        inputs, outputs, *experts = sizes
        if names == [pattern.replace("{}", str(number)) for number in range(len(names))]:
            layers[pattern] = [kind, inputs, outputs, len(names), *experts]
        else:
            layers |= {name: [kind, inputs, outputs, 1, *experts] for name in names}
    return layers


def _kind(network: PreTrainedModel, module: nn.Module) -> str:
    if isinstance(module, nn.Embedding):
        return "embedding"
    if module is not network.get_output_embeddings():
        return "linear"
    return "tied" if module.weight is network.get_input_embeddings().weight else "head"


def _shape(module: nn.Module) -> tuple[int, int] | None:
    """Return (inputs, outputs) of a module whose matrix peft can adapt; None for other modules."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, nn.Embedding):
        return module.num_embeddings, module.embedding_dim
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    return None
