"""RMSNorm layers in training on a GPU, with torch's own operator.

The libraries' layers consist of several operations, each of which reads and writes all hidden states, most of them in
float32. torch's operator computes in float32, too, but reads and writes the states once (docs/engine-log.md).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

PROBED_ROWS = 2
TOLERANCE = 1e-5


def replace_norms(model: nn.Module) -> Callable[[], None]:
    """Replace the forward of the layers that compute a plain RMSNorm. Return a function that restores the libraries'
    forward."""
    replaced: list[Any] = [module for module in model.modules() if _is_plain(module)]
    for layer in replaced:
        layer.forward = partial(_forward, layer)

    def restore() -> None:
        for layer in replaced:
            del layer.forward

    return restore


@torch.no_grad()
def _is_plain(layer: Any) -> bool:
    """Return whether the layer multiplies by its weight only. Gemma's layers, for example, add 1. The class's name
    does not show this, so the layer computes an example."""
    if not type(layer).__name__.endswith("RMSNorm") or not hasattr(layer, "variance_epsilon"):
        return False
    weight = layer.weight.float()
    example = torch.linspace(-2, 3, PROBED_ROWS * len(weight), device=weight.device).view(PROBED_ROWS, -1)
    expected = functional.rms_norm(example, weight.shape, weight, layer.variance_epsilon)
    return torch.allclose(layer(example).float(), expected, rtol=TOLERANCE, atol=TOLERANCE)


def _forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    if layer.weight.dtype != x.dtype:
        wide: torch.Tensor = type(layer).forward(layer, x)
        return wide
    return functional.rms_norm(x, layer.weight.shape, layer.weight, layer.variance_epsilon)
