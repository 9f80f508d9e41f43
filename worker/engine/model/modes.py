"""Removal of the differences between training and inference in a base model.

Some layers differ between `train()` and `eval()`: dropout, noise on a router's input, four-bit weights that are
rearranged at their first use. All of this is disabled once, when a model is loaded.
"""

from functools import partial

from bitsandbytes.nn.modules import Linear4bit
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from transformers import PreTrainedConfig, PreTrainedModel

RANDOM = ("drop", "jitter")
"""Parts of the names of attributes that hold a probability of dropout or a strength of noise: `dropout`, `layerdrop`,
`router_jitter_noise`."""
ALWAYS_IN_EVALUATION = frozenset({"PhimoeTopKRouter"})
"""Classes of layers that stay in evaluation mode. PhimoeTopKRouter samples experts in training mode. Its
`router_jitter_noise` is not noise but a threshold that weighs experts, also in inference."""
PACKED_OUTPUTS = 32
"""bitsandbytes rearranges four-bit weights in groups of this many outputs."""


def disable_training_behavior(model: PreTrainedModel) -> None:
    """Disable the differences between training and inference in the base model. The technique's own dropout is added
    later and stays."""
    without_dropout(model)
    keep_four_bits(model)


def without_dropout(model: PreTrainedModel) -> None:
    """Set every probability of dropout and every strength of noise to 0. Families keep them in torch modules, in
    attributes that they pass to torch functions (OPT, BLOOM, XLM), or read them from their config at each step
    (Falcon)."""
    for module in model.modules():
        if type(module).__name__ in ALWAYS_IN_EVALUATION:
            vars(module).update(training=False, train=partial(_unchanged, module))
            continue
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        _silence(module)
    _silence_config(model.config)


def _unchanged(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def _silence_config(config: PreTrainedConfig) -> None:
    _silence(config)
    for part in vars(config).values():
        if isinstance(part, PreTrainedConfig):
            _silence_config(part)


def _silence(holder: nn.Module | PreTrainedConfig) -> None:
    for name, value in list(vars(holder).items()):
        if is_random_strength(name, value):
            setattr(holder, name, type(value)(0))


def is_random_strength(name: str, value: object) -> bool:
    """Return whether an attribute, or an entry of a config, is a probability of dropout or a strength of noise."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and any(part in name for part in RANDOM)


def keep_four_bits(model: nn.Module) -> None:
    """Keep bitsandbytes from rearranging four-bit weights.

    On processors with AVX512-BF16, bitsandbytes (0.50) rearranges a layer's weights at its first forward in evaluation
    mode and never restores them. The product with rearranged weights has no gradient for its input, so that no layer
    below the last ones would be trained. The rearrangement also rounds the scales to bfloat16.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def pack_where_possible(model: nn.Module) -> None:
    """Let bitsandbytes rearrange the four-bit weights of a model that is only sampled from, which makes sampling two to
    seven times faster. Layers that bitsandbytes cannot rearrange are excluded, because it would fail at an
    assertion."""
    for module in model.modules():
        if isinstance(module, Linear4bit) and module.out_features % PACKED_OUTPUTS:
            module.support_avx512bf16_for_cpu = False
