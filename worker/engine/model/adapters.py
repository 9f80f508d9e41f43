"""Application of a technique to a network: an adapter of peft, an adapter of worker.techniques, or none."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from peft import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PeftConfig,
    PeftModel,
    PeftType,
    PromptLearningConfig,
    get_peft_model,
    get_peft_model_state_dict,
)
from peft.tuners.cartridge.utils import initialize_kv_prefix_from_past_key_values
from peft.tuners.lora.layer import LoraLayer
from peft.utils.save_and_load import set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import DynamicCache, PreTrainedModel

from api.estimate.shapes import expanded
from api.spec.base_model import HEAD_MODULES, TENSOR_KINDS, Matrix, ModelLayers
from api.spec.lifecycle import FailureReason
from api.spec.resolve import ResolvedRecipe
from api.spec.target_modules import ALL_LINEAR, NoTargetModules, is_all_linear, matches
from api.spec.techniques import TechniqueBase
from worker.bases.experts import adapted_tensor
from worker.bases.shapes import ia3_names, layers_of
from worker.engine.errors import TrainingError
from worker.engine.model.families import kind_of, layers_without_adapters
from worker.engine.model.target_modules import named_values, not_chosen, plain_patterns, published_config
from worker.techniques import implementation_of

HEADS = ("lm_head", *sorted(HEAD_MODULES))
"""Names of heads and of the layers before them."""
UNQUANTIZED = (*HEADS, "decoder", "embed_out", "output_projection")
"""Names of the layers that are not quantized: the heads, and the output layers that have other names than `lm_head` in
some families (ModernBERT's decoders, GPT-NeoX-Japanese, BioGPT)."""
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def heads_of(network: PreTrainedModel) -> list[str]:
    """Return the names of the modules on top of the base model in a classifier or a reward model, in the order in which
    the model applies them. Every technique trains and publishes them."""
    above = (entry for entry in network.named_children() if entry[0] != network.base_model_prefix)
    return [name for name, module in above if any(True for _ in module.parameters())]


def network_of(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Return the transformers model, without the PeftModel around it."""
    network = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(network, PreTrainedModel), type(network)
    return network


def with_technique(network: PreTrainedModel, recipe: ResolvedRecipe, start: Path | None) -> PreTrainedModel | PeftModel:
    """Return the network with the technique's trained weights, newly initialized or loaded from the adapter in
    `start`."""
    technique = recipe.technique
    if (own := implementation_of(technique)) is not None:
        if start is None:
            own.add(network, technique)
        else:
            own.load(network, start)
        return network
    if technique.peft_type is None:
        return network
    config = peft_config(network, technique, recipe.method.output)
    if start is not None:
        _keep_tensors(config, published_config(start, network))
    try:
        with _olora_of_transposed_layers():
            model: PeftModel = get_peft_model(network, config)
    except ValueError as error:  # api.spec.target_modules accepts some layers that peft cannot adapt
        print(error, flush=True)
        message = "technique.target_modules: peft cannot adapt some of these layers. Name linear layers of the model."
        raise TrainingError(FailureReason.INVALID_RECIPE, message) from error
    if start is not None:
        _continue(model, start)
    return model


@contextmanager
def _olora_of_transposed_layers() -> Iterator[None]:
    """Within the context, OLoRA also initializes layers whose matrix is [inputs, outputs], such as GPT-2's. peft
    transposes such a matrix in its other initializations, but not in this one."""
    peft_init: Any = LoraLayer.olora_init

    def init(layer: Any, adapter: str) -> None:
        weight = layer.get_base_layer().weight
        if layer.fan_in_fan_out:
            weight.data = weight.data.T
        peft_init(layer, adapter)
        if layer.fan_in_fan_out:
            weight.data = weight.data.T.contiguous()

    LoraLayer.olora_init = init  # type: ignore[method-assign]
    try:
        yield
    finally:
        LoraLayer.olora_init = peft_init  # type: ignore[method-assign]


@torch.no_grad()
def initialize_prefix(model: PeftModel, opening: npt.NDArray[np.int32]) -> None:
    """Initialize the prefix of prefix tuning with the keys and values of real words, `opening`. The paper (Li and Liang
    2021, arXiv:2101.00190, section 7.4) found them far better than random values: after a random prefix, a language
    model writes noise."""
    config = model.peft_config["default"]
    assert isinstance(config, PromptLearningConfig), type(config)
    length = config.num_virtual_tokens
    tokens = torch.from_numpy(np.resize(opening[:length], length).astype(np.int64))[None].to(model.device)
    cache = DynamicCache()  # keeps all tokens, although a sliding window may be shorter
    with _needs_keys_and_values(network_of(model)):
        seen = model.get_base_model()(input_ids=tokens, past_key_values=cache, use_cache=True)
        initialize_kv_prefix_from_past_key_values(model, past_key_values=seen.past_key_values)


@contextmanager
def _needs_keys_and_values(network: PreTrainedModel) -> Iterator[None]:
    """Raise TrainingError in place of the errors of transformers and peft if the model keeps no keys and values in all
    layers, as Mamba, or in a form that they do not support."""
    try:
        yield
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise TrainingError(
            FailureReason.INVALID_RECIPE,
            f"Prefix tuning does not work on models of the family {network.config.model_type}, whose layers do not all "
            "keep keys and values that a prefix can be put before. Use another technique, such as lora or prompt.",
        ) from error


def peft_config(network: PreTrainedModel, technique: TechniqueBase, output: str) -> Any:
    """Return peft's configuration of the technique for this network. Raise TrainingError for layers that the network
    does not have."""
    assert technique.peft_type is not None, technique.type
    layers = ModelLayers(
        list(expanded(layers_of(network))), scores=output != "tokens", ia3=ia3_names(network.config.model_type)
    )
    arguments: dict[str, Any] = dict(technique.peft(layers))
    try:
        found = technique.adapted_layers(layers)
        if technique.explicit_targets:
            arguments |= _explicit_targets(network, arguments, found, layers)
    except NoTargetModules as error:
        raise TrainingError(FailureReason.INVALID_RECIPE, str(error)) from None
    if output != "tokens":
        arguments["modules_to_save"] = heads_of(network)
    if technique.virtual_tokens:
        arguments |= _virtual_token_shape(network, technique)
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(technique.peft_type)]
    return kind(task_type="CAUSAL_LM" if output == "tokens" else "SEQ_CLS", **arguments)


@torch.no_grad()
def _virtual_token_shape(network: PreTrainedModel, technique: TechniqueBase) -> dict[str, int]:
    """Return the shape of a virtual token: of an embedding, or of the keys in a layer's cache. From the config alone,
    peft would take the hidden size for OPT's embeddings, as many keys as queries for Falcon, and nothing for MPT."""
    if kind_of(network.config) == "encoder":
        return {}  # the catalogue names those for which peft's own values are right
    if not technique.begins_from_text:
        embedding: Any = network.get_input_embeddings()
        return {"token_dim": embedding.embedding_dim}
    if "num_key_value_heads" in network.config.to_dict():
        return {}  # peft reads it
    cache: Any = DynamicCache()
    token = torch.zeros(1, 1, dtype=torch.long, device=network.device)
    with _needs_keys_and_values(network):
        network.base_model(input_ids=token, past_key_values=cache, use_cache=True)
        _, heads, _, width = cache.layers[0].keys.shape
    return {"num_attention_heads": heads, "token_dim": heads * width}


def _explicit_targets(
    network: PreTrainedModel, arguments: Mapping[str, Any], found: Sequence[Matrix], layers: ModelLayers
) -> dict[str, object]:
    """Return peft's arguments with the names of the chosen layers in place of the job's patterns. Given a regular
    expression, peft would adapt every module whose name matches, fail at modules that it cannot adapt, and match in
    unbounded time."""
    patterns = {field: arguments[field] for field in ("rank_pattern", "alpha_pattern") if field in arguments}
    if any(matrix.kind in TENSOR_KINDS for matrix in found) or any(each.kind == "router" for each in layers.matrices):
        return _among_experts(network, patterns, found)
    names = [matrix.name for matrix in found]
    barred = layers_without_adapters(network.config)
    named: dict[str, object] = {field: plain_patterns(names, given) for field, given in patterns.items()}
    named["exclude_modules"] = barred or None
    targets = arguments["target_modules"]
    if is_all_linear(targets):
        return named | {"target_modules": ALL_LINEAR}
    if isinstance(targets, list) and _modules_called(network, targets) == set(names):
        return named | {"target_modules": sorted(targets)}
    return named | {
        "target_modules": sorted(names),
        "exclude_modules": [*barred, *not_chosen(network, names)] or None,
    }


def _among_experts(
    network: PreTrainedModel, patterns: Mapping[str, Mapping[str, float]], found: Sequence[Matrix]
) -> dict[str, object]:
    """Return the arguments for a mixture of experts, for which peft's "all-linear" would include routers and miss other
    layers."""
    tensors = {matrix.name: adapted_tensor(network, matrix.name) for matrix in found if matrix.kind in TENSOR_KINDS}
    keys = {matrix.name: tensors.get(matrix.name) or matrix.name for matrix in found}
    modules = sorted(name for name in keys if tensors.get(name) is None)
    barred = [*layers_without_adapters(network.config), *not_chosen(network, modules)]
    return {field: named_values(keys, given) for field, given in patterns.items()} | {
        "target_modules": modules,
        "target_parameters": sorted(tensor for tensor in tensors.values() if tensor is not None),
        "exclude_modules": barred or None,
    }


def _modules_called(network: PreTrainedModel, names: list[str]) -> set[str]:
    return {module for module, _ in network.named_modules() if any(matches(name, module) for name in names)}


def _keep_tensors(config: PeftConfig, continued: PeftConfig) -> None:
    """Copy the layers, tensors and ranks of an adapter on experts into the configuration of a job that continues the
    adapter. They may differ from today's, since earlier releases also adapted routers, and used other ranks."""
    if getattr(continued, "target_parameters", None):
        for field in ("target_modules", "target_parameters", "rank_pattern", "alpha_pattern", "exclude_modules"):
            setattr(config, field, getattr(continued, field))


def _continue(model: PeftModel, start: Path) -> None:
    """Load another job's adapter. If the adapter lacks the head, as a policy lacks a reward model's, the head keeps its
    initialization. Raise TrainingError if the adapter lacks other weights."""
    weights: Mapping[str, torch.Tensor] = load_file(start / ADAPTER_WEIGHTS)
    # A head has other names in a language model than in a classifier, so its weights may be missing. Layers have the
    # same names in both.
    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    set_peft_model_state_dict(model, {**own, **weights})
    expected = {name for name in own if not any(f".{head}." in name for head in HEADS)}
    if missing := expected - weights.keys():
        raise TrainingError(
            FailureReason.INVALID_RECIPE,
            f"The model to continue lacks {len(missing)} of the weights that this technique trains. Use the "
            "technique that the model was trained with.",
        ) from ValueError(f"{sorted(missing)[:5]}")
