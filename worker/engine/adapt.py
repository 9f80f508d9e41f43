"""A technique on a network: peft's adapters, ours, or none."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftModel, PeftType, get_peft_model, get_peft_model_state_dict
from peft.tuners.cartridge.utils import initialize_kv_prefix_from_past_key_values
from peft.utils.save_and_load import set_peft_model_state_dict
from safetensors.torch import load_file

from api.lifecycle import FailureReason
from api.recipe import ResolvedRecipe
from api.techniques import Technique
from api.techniques.base import ALL_LINEAR
from worker.engine.families import layers_without_adapters
from worker.engine.stopping import TrainingError
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
    try:
        model = get_peft_model(network, config)
    except ValueError as error:  # peft finds none of the layers that were named, or knows no default for the family
        print(error, flush=True)
        message = "technique.target_modules: none of the base model's layers can be adapted so. Name its linear layers."
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
    names = arguments.get("target_modules")
    if isinstance(names, list):
        _require_layers(network, names)
        arguments["target_modules"] = sorted(names)
    assert technique.peft_type is not None, technique.type
    for field in ("rank_pattern", "alpha_pattern"):
        _require_matches(network, field, arguments.get(field, {}))
    if technique.peft_type == "LORA":
        arguments["exclude_modules"] = layers_without_adapters(network.config) or None
    if output != "tokens":
        arguments["modules_to_save"] = heads_of(network)
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(technique.peft_type)]
    return kind(task_type="CAUSAL_LM" if output == "tokens" else "SEQ_CLS", **arguments)


def _require_layers(network: Any, names: list[str]) -> None:
    matrices = (name.removesuffix(".weight") for name, weight in network.named_parameters() if weight.ndim == 2)
    linear = {name.rsplit(".", 1)[-1] for name in matrices if not name.endswith(".bias")}
    barred = set(layers_without_adapters(network.config))
    missing = [name for name in names if name.rsplit(".", 1)[-1] not in linear - barred]
    if missing and names != [ALL_LINEAR]:
        raise TrainingError(
            FailureReason.INVALID_RECIPE,
            f"technique.target_modules: the base model has no trainable layer called {', '.join(missing)[:200]}.",
        )


def _require_matches(network: Any, field: str, patterns: Mapping[str, Any]) -> None:
    """What fits no layer would be passed over without a word. The expression is peft's."""
    layers = [name.removesuffix(".weight") for name, weight in network.named_parameters() if weight.ndim == 2]
    for pattern in patterns:
        fits = re.compile(rf"(.*\.)?({pattern})$")
        if not any(fits.match(layer) for layer in layers):
            message = f"technique.{field}: '{pattern[:200]}' fits none of the base model's linear layers."
            raise TrainingError(FailureReason.INVALID_RECIPE, message)


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
