"""A technique on a network: peft's adapters, ours, or none."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftModel, PeftType, get_peft_model, get_peft_model_state_dict
from peft.tuners.cartridge.utils import initialize_kv_prefix_from_past_key_values
from peft.utils.save_and_load import set_peft_model_state_dict
from safetensors.torch import load_file

from api.estimate.shapes import expanded
from api.estimate.targets import BARE, Matrix, NoTargetModules, ia3_layers, lora_layers, named
from api.spec.lifecycle import FailureReason
from api.spec.resolve import ResolvedRecipe
from api.spec.techniques import Technique
from api.spec.techniques.base import ALL_LINEAR
from api.spec.techniques.ia3 import Ia3
from api.spec.techniques.lora import Lora
from worker.bases.experts import adapted_tensor
from worker.bases.shapes import ia3_names, layers_of
from worker.engine.errors import TrainingError
from worker.engine.model.families import layers_without_adapters
from worker.engine.model.target_modules import named_values, not_chosen, plain_patterns, published_config
from worker.techniques import TECHNIQUES

HEADS = ("lm_head", "score", "classifier", "pre_classifier", "head", "pooler")
"""Names of heads and of what leads to them, which are not quantised."""
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def heads_of(network: Any) -> list[str]:
    """What lies on top of the base model in a classifier or a reward model: trained and published, by any technique."""
    above = (entry for entry in network.named_children() if entry[0] != network.base_model_prefix)
    return [name for name, module in above if any(True for _ in module.parameters())]


def with_technique(network: Any, recipe: ResolvedRecipe, start: Path | None) -> Any:
    """The network with what the technique trains, begun anew or continued from the adapter in `start`."""
    technique = recipe.technique
    if technique.type in TECHNIQUES:
        if start is None:
            TECHNIQUES[technique.type].add(network, technique)
        else:
            TECHNIQUES[technique.type].load(network, start)
        return network
    if technique.peft_type is None:
        return network
    config = peft_config(network, technique, recipe.method.output)
    if start is not None:
        _keep_tensors(config, published_config(start, network))
    try:
        model = get_peft_model(network, config)
    except ValueError as error:  # what peft cannot adapt, and api.estimate.targets does not know of
        print(error, flush=True)
        message = "technique.target_modules: some of these layers cannot be adapted so. Name the model's linear layers."
        raise TrainingError(FailureReason.INVALID_RECIPE, message) from error
    if start is not None:
        _continue(model, start)
    return model


@torch.no_grad()
def begin_prefix(model: PeftModel, opening: npt.NDArray[np.int32]) -> None:
    """Keys and values of real words, which the paper found far better than random ones (section 7.4): of a random
    prefix a language model makes nothing but noise."""
    config: Any = model.peft_config["default"]
    length = config.num_virtual_tokens
    tokens = torch.from_numpy(np.resize(opening, length).astype(np.int64))[None].to(model.device)
    seen = model.get_base_model()(input_ids=tokens, use_cache=True)
    initialize_kv_prefix_from_past_key_values(model, past_key_values=seen.past_key_values)


def peft_config(network: Any, technique: Technique, output: str) -> Any:
    """peft's configuration of the technique on this network. Raises TrainingError for layers that it has not got."""
    arguments: dict[str, Any] = dict(technique.peft())
    assert technique.peft_type is not None, technique.type
    if isinstance(technique, Lora | Ia3):
        try:
            arguments |= _layers(network, technique, scores=output != "tokens")
        except NoTargetModules as no_place:
            raise TrainingError(FailureReason.INVALID_RECIPE, str(no_place)) from None
    if output != "tokens":
        arguments["modules_to_save"] = heads_of(network)
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(technique.peft_type)]
    return kind(task_type="CAUSAL_LM" if output == "tokens" else "SEQ_CLS", **arguments)


def _layers(network: Any, technique: Lora | Ia3, *, scores: bool) -> dict[str, Any]:
    """The layers in peft's words. By an expression, peft would adapt whatever module has such a name, and fail where it
    cannot, and take time without a bound; it is given the names of the layers instead."""
    matrices = list(expanded(layers_of(network)))
    targets = technique.target_modules
    if isinstance(technique, Ia3):
        known, inner = ia3_names(network.config.model_type), technique.feedforward_modules
        ia3_layers(technique, matrices, known, scores=scores)
        # Of a family that peft does not know, no layer is feed-forward unless the job names it; null would be an error.
        inner = [] if inner is None and known is None else inner
        return {"target_modules": targets and sorted(targets), "feedforward_modules": inner}
    found = lora_layers(technique, matrices, scores=scores)
    if any(layer.kind in BARE for layer in found) or any(layer.kind == "router" for layer in matrices):
        return _among_experts(network, technique, found)
    names = [layer.name for layer in found]
    barred = layers_without_adapters(network.config)
    arguments = {
        "rank_pattern": plain_patterns(names, technique.rank_pattern),
        "alpha_pattern": plain_patterns(names, technique.alpha_pattern),
        "exclude_modules": barred or None,
    }
    if targets in (ALL_LINEAR, [ALL_LINEAR]):
        return arguments | {"target_modules": ALL_LINEAR}
    if isinstance(targets, list) and _modules_called(network, targets) == set(names):
        return arguments | {"target_modules": sorted(targets)}
    return arguments | {
        "target_modules": sorted(names),
        "exclude_modules": [*barred, *not_chosen(network, names)] or None,
    }


def _among_experts(network: Any, technique: Lora, found: Sequence[Matrix]) -> dict[str, Any]:
    """In a mixture of experts, where peft's "all-linear" would take routers too and pass over other layers."""
    tensors = {layer.name: adapted_tensor(network, layer.name) for layer in found if layer.kind in BARE}
    keys = {layer.name: tensors.get(layer.name) or layer.name for layer in found}
    modules = sorted(name for name in keys if tensors.get(name) is None)
    barred = [*layers_without_adapters(network.config), *not_chosen(network, modules)]
    return {
        "target_modules": modules,
        "target_parameters": sorted(tensor for tensor in tensors.values() if tensor is not None),
        "rank_pattern": named_values(keys, technique.rank_pattern),
        "alpha_pattern": named_values(keys, technique.alpha_pattern),
        "exclude_modules": barred or None,
    }


def _modules_called(network: Any, names: list[str]) -> set[str]:
    return {module for module, _ in network.named_modules() if any(named(name, module) for name in names)}


def _keep_tensors(config: Any, continued: Any) -> None:
    """An adapter on experts goes on as it is: those of earlier releases are on routers too, and of other ranks."""
    if getattr(continued, "target_parameters", None):
        for field in ("target_modules", "target_parameters", "rank_pattern", "alpha_pattern", "exclude_modules"):
            setattr(config, field, getattr(continued, field))


def _continue(model: PeftModel, start: Path) -> None:
    """Take over another job's adapter. A head that it has not got (a policy's, for a reward) begins anew."""
    weights: Mapping[str, torch.Tensor] = load_file(start / ADAPTER_WEIGHTS)
    # Names under the network's own head differ between a language model and a classifier; those of its layers do not.
    own = get_peft_model_state_dict(model)
    set_peft_model_state_dict(model, {**own, **weights})
    expected = {name for name in own if not any(f".{head}." in name for head in HEADS)}
    if missing := expected - weights.keys():
        raise TrainingError(
            FailureReason.INVALID_RECIPE,
            f"The model to continue has other weights than this technique: {len(missing)} are missing.",
        ) from ValueError(f"{sorted(missing)[:5]}")
