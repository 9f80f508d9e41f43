"""Mixtures of experts: the weights of experts and routers, and the names by which peft adapts them.

transformers stores the matrices of all experts of a layer in one tensor [experts, …]. peft can place an adapter beside
a layer, but not beside such a tensor, which it adapts by the tensor's name instead (`target_parameters`).
"""

import re

from peft.utils import transformers_weight_conversion as conversion
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

ROUTER = re.compile(r"Router|TopK|Topk|Gating")
"""Parts of the names of router classes."""
ACTIVE = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k")
"""Names that configurations give to the number of experts that compute a token."""

Shape = tuple[str, int, int, int, int]
"""(kind, inputs, outputs, experts, active experts), as in api.spec.base_model.Matrix."""


def expert_layers(network: PreTrainedModel) -> dict[str, Shape]:
    """Return the `Shape` of each tensor of experts, each router, and each layer that peft takes for experts, by the
    name of the module or tensor."""
    modules = dict(network.named_modules())
    routers = tuple(name for name, module in modules.items() if ROUTER.search(type(module).__name__))
    found: dict[str, Shape] = {}
    for name, module in modules.items():
        routes = any(name == router or name.startswith(f"{router}.") for router in routers)
        if isinstance(module, nn.Linear):
            if routes:
                found[name] = ("router", module.in_features, module.out_features, 1, 1)
            elif name.rpartition(".")[2] in taken_for_experts(network.config):
                found[name] = ("shared", module.in_features, module.out_features, 1, 1)
            continue
        for parameter, weight in module.named_parameters(recurse=False):
            if routes and weight.ndim == 2:
                where = name if parameter == "weight" else f"{name}.{parameter}"
                found[where] = ("router", weight.shape[1], weight.shape[0], 1, 1)
            elif weight.ndim == 3 and "xpert" in f"{type(module).__name__} {name}":
                found[f"{name}.{parameter}"] = _experts(module, weight, network.config)
    return found


def taken_for_experts(config: PreTrainedConfig) -> frozenset[str]:
    """Return the names that peft replaces by experts' tensors wherever `target_modules` contains them. Earlier versions
    of transformers gave these names to layers of experts (peft.utils.transformers_weight_conversion)."""
    if conversion.get_checkpoint_conversion_mapping(config.model_type) is None:
        return frozenset()
    # Private, but pinned: peft has no public function for it. A test trains every family.
    now_as = conversion._MODEL_TO_CONVERSION_PATTERN.get(config.model_type, "")
    return frozenset(conversion._MOE_TARGET_MODULE_MAPPING.get(now_as, ()))


def adapted_tensor(network: PreTrainedModel, name: str) -> str | None:
    """Return the name of the tensor that peft adapts in place of the layer; None if peft adapts the layer itself."""
    owner = dict(network.named_modules()).get(name)
    if owner is None:
        return name
    plain = isinstance(owner, nn.Linear) and name.rpartition(".")[2] not in taken_for_experts(network.config)
    return None if plain else f"{name}.weight"


def _experts(module: nn.Module, weight: nn.Parameter, config: PreTrainedConfig) -> Shape:
    """Return the `Shape` of a tensor [experts, outputs, inputs], or [experts, inputs, outputs]. Its kind is "apart" if
    the family computes experts in its own way, which peft cannot adapt."""
    transposed = getattr(module, "is_transposed", None)
    outputs, inputs = weight.shape[:0:-1] if transposed else weight.shape[1:]
    text, experts = config.get_text_config(), weight.shape[0]
    active = next((value for name in ACTIVE if (value := getattr(text, name, None))), experts)
    return ("apart" if transposed is None else "experts", inputs, outputs, experts, min(active, experts))
