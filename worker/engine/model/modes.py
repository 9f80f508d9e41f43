"""A base model computes the same in training as in use, and evaluating it changes nothing of it.

Layers of libraries differ between `train()` and `eval()`: dropout, noise on a router's input, four-bit weights that are
rearranged at their first use. All of it is switched off once, when a model is loaded.
"""

from functools import partial
from typing import Any

from bitsandbytes.nn.modules import Linear4bit
from torch.nn.modules.dropout import _DropoutNd
from transformers import PreTrainedConfig

RANDOM = ("drop", "jitter")
"""Parts of the names of numbers that decide how much of a layer is left to chance: `dropout`, `layerdrop`,
`router_jitter_noise`."""
ALWAYS_IN_USE = frozenset({"PhimoeTopKRouter"})
"""Classes of layers that stay in evaluation mode. In training this one draws experts at random; and its
`router_jitter_noise` is no noise but a threshold, by which it weighs experts in use, too."""
PACKED_OUTPUTS = 32
"""bitsandbytes rearranges four-bit weights for so many outputs at once."""


def settle(model: Any) -> None:
    """Switch off what the base would do otherwise in training than in use. The technique's own dropout is added later
    and stays."""
    without_dropout(model)
    keep_four_bits(model)


def without_dropout(model: Any) -> None:
    """Set every probability and every strength of noise to 0. Families keep them as modules of torch, as numbers that
    they hand to torch's functions (OPT, BLOOM, XLM), or read them in their configuration at each step (Falcon)."""
    for module in model.modules():
        if type(module).__name__ in ALWAYS_IN_USE:
            module.training, module.train = False, partial(_unchanged, module)
            continue
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        _silence(module)
    _silence_config(model.config)


def _unchanged(module: Any, mode: bool = True) -> Any:
    return module


def _silence_config(config: Any) -> None:
    _silence(config)
    for part in vars(config).values():
        if isinstance(part, PreTrainedConfig):
            _silence_config(part)


def _silence(holder: Any) -> None:
    for name, value in list(vars(holder).items()):
        if leaves_to_chance(name, value):
            setattr(holder, name, type(value)(0))


def leaves_to_chance(name: str, value: Any) -> bool:
    """Whether an attribute or a configuration's entry is the probability of a dropout, or the strength of a noise."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and any(part in name for part in RANDOM)


def keep_four_bits(model: Any) -> None:
    """Leave four-bit weights as they are stored.

    On processors with AVX512-BF16, bitsandbytes (0.50) rearranges a layer's weights at its first forward in evaluation
    mode and never puts them back. Its product with those has no gradient for its input: nothing below the last layers
    would learn any more. It also rounds the scales to bfloat16.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def pack_where_possible(model: Any) -> None:
    """For a model that only answers: let bitsandbytes rearrange four-bit weights, which makes answers two to seven
    times faster, except those that it cannot (it would stop at an assertion)."""
    for module in model.modules():
        if isinstance(module, Linear4bit) and module.out_features % PACKED_OUTPUTS:
            module.support_avx512bf16_for_cpu = False
