"""Temporary merging of adapters into their base layers: a pass then costs as much as a pass of the base model."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

ROUNDED_BITS = 16
"""Bits of a float32 number that bfloat16 drops."""


@contextmanager
@torch.no_grad()
def merged_adapters(model: nn.Module) -> Iterator[None]:
    """Merge the adapters into their base layers within the context; afterwards, every weight is the same tensor as
    before.

    Adapters on four-bit weights, and on weights that two layers share, are not merged. A bfloat16 weight is rounded
    stochastically. Otherwise an update smaller than half a rounding step, as most are early in a training, would be
    lost.
    """
    saved: dict[nn.Parameter, torch.Tensor] = {}
    merged: list[Any] = []
    try:
        _merge(model, saved, merged)
        yield
    finally:
        for weight, data in saved.items():
            weight.data = data
        for adapter in merged:
            adapter.merged_adapters.clear()


def _merge(model: nn.Module, saved: dict[nn.Parameter, torch.Tensor], merged: list[Any]) -> None:
    """Merge the model's adapters. Put the former data of each weight into `saved`, and each adapter into `merged`."""
    shared = _shared_parameters(model)
    adapted = {
        base: adapters
        for base, adapters in _adapters_by_base(model).items()
        if all(weight.is_floating_point() and weight not in shared for weight in base.parameters())
    }
    noise_N = _noise(list(adapted))
    for base, adapters in adapted.items():
        weights = list(base.parameters())
        for weight in weights:
            saved[weight] = weight.data
            weight.data = weight.data.to(torch.float32, copy=True)
        for adapter in adapters:
            merged.append(adapter)
            adapter.merge()
        for weight in weights:
            weight.data = _rounded(weight.data, saved[weight].dtype, noise_N)
        if isinstance(base, nn.Linear) and base.weight.device.type == "cpu":
            # Stored by columns: a float32 product of few rows then takes a quarter less time (docs/engine-log.md).
            base.weight.data = base.weight.data.t().contiguous().t()


def _adapters_by_base(model: nn.Module) -> dict[nn.Module, list[Any]]:
    """Return the enabled adapters on each base layer, the inner ones first. A layer has several adapters if several of
    its tensors have one each."""
    found: dict[nn.Module, list[Any]] = {}
    for module in model.modules():
        if isinstance(module, BaseTunerLayer) and hasattr(module, "merge") and not module.disable_adapters:
            found.setdefault(module.get_base_layer(), []).insert(0, module)
    return found


def _shared_parameters(model: nn.Module) -> set[nn.Parameter]:
    owners = Counter(weight for module in model.modules() for weight in module.parameters(recurse=False))
    return {weight for weight, count in owners.items() if count > 1}


def _noise(layers: list[nn.Module]) -> torch.Tensor:
    """Return random integers below 2 ** ROUNDED_BITS, as many as the largest weight of the layers has numbers.

    All weights share them, because drawing takes longer than merging. They are the same in each merge, so that equal
    weights are merged to equal bytes.
    """
    weights = [weight for layer in layers for weight in layer.parameters() if weight.dtype == torch.bfloat16]
    if not weights:
        return torch.empty(0, dtype=torch.int32)
    device = weights[0].device
    noise = torch.empty(max(weight.numel() for weight in weights), dtype=torch.int32, device=device)
    return noise.random_(1 << ROUNDED_BITS, generator=torch.Generator(device).manual_seed(0))


def _rounded(weight: torch.Tensor, dtype: torch.dtype, noise_N: torch.Tensor) -> torch.Tensor:
    """Return the float32 weight converted to `dtype`. For bfloat16, each number is rounded up with the probability that
    keeps its expectation, by random integers of `_noise`."""
    if dtype != torch.bfloat16:
        return weight.to(dtype)
    bits = noise_N[: weight.numel()].view(weight.shape) + weight.view(torch.int32)
    return (bits >> ROUNDED_BITS << ROUNDED_BITS).view(torch.float32).to(dtype)
