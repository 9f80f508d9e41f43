"""Matrix products in bfloat16 on processors that multiply bfloat16 more slowly than float32.

There, large products are computed in float32. Weights are converted in blocks that fit the cache, and sums are rounded
to bfloat16 at the end. A product of two bfloat16 numbers is exact in float32, and the kernels for bfloat16 sum in
float32, too, so the results differ from theirs only by the order of the sums. On all other devices, and for other types
and small products, nothing changes.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from worker.shared.hardware import cpu_trains_in_bfloat16

FEWEST_ROWS = 64
"""With fewer rows, the conversion of the weight costs more than the faster product gains."""
BLOCK = 1 << 20
"""Approximate number of weights that are converted at a time: 4 MiB in float32."""


def faster_type(tensor: torch.Tensor) -> torch.dtype:
    """Return the type in which products of such tensors are faster: their own type, or float32."""
    slow = tensor.dtype == torch.bfloat16 and tensor.device.type == "cpu" and not cpu_trains_in_bfloat16()
    return torch.float32 if slow else tensor.dtype


def product_type(x_N_I: torch.Tensor) -> torch.dtype:
    """Return the type in which the product of these rows with a bfloat16 weight is computed."""
    return faster_type(x_N_I) if len(x_N_I) >= FEWEST_ROWS else x_N_I.dtype


def blocks(weight_O_I: torch.Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield the weight in parts, converted to `dtype`, each with its range of outputs. The weight is a single part if
    it has that type."""
    outputs, inputs = weight_O_I.shape
    size = outputs if weight_O_I.dtype == dtype else max(1, BLOCK // inputs)
    for start in range(0, outputs, size):
        yield slice(start, start + size), weight_O_I[start : start + size].to(dtype)


def replace_linear_layers(model: nn.Module) -> Callable[[], None]:
    """Let the model's linear layers choose the type of each product. Return a function that restores torch's
    forward."""
    replaced = [module for module in model.modules() if type(module) is nn.Linear]
    for layer in replaced:
        layer.forward = partial(_forward, layer)  # type: ignore[method-assign]

    def restore() -> None:
        for layer in replaced:
            del layer.forward

    return restore


def _forward(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    x_N_I = x.reshape(-1, x.shape[-1])
    if product_type(x_N_I) == x.dtype:
        return functional.linear(x, layer.weight, layer.bias)
    result_N_O: torch.Tensor = _Linear.apply(x_N_I, layer.weight, layer.bias)  # type: ignore[no-untyped-call]
    return result_N_O.view(*x.shape[:-1], -1)


class _Linear(torch.autograd.Function):
    """W x + b of bfloat16 tensors, computed in float32. x [N, I] → [N, O]"""

    @staticmethod
    def forward(ctx: Any, x_N_I: torch.Tensor, weight_O_I: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x_N_I, weight_O_I)
        wide_N_I = x_N_I.float()
        result_N_O = x_N_I.new_empty(len(x_N_I), len(weight_O_I))
        for part, block in blocks(weight_O_I, torch.float32):
            result_N_O[:, part] = functional.linear(wide_N_I, block, None if bias_O is None else bias_O[part].float())
        return result_N_O

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_N_I, weight_O_I = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        wide_N_I = x_N_I.float() if needs_weight else x_N_I
        grad_x = torch.zeros_like(x_N_I, dtype=torch.float32) if needs_x else None
        grad_weight = torch.empty_like(weight_O_I) if needs_weight else None
        for part, block in blocks(weight_O_I, torch.float32):
            grad_N_O = outer[0][:, part].float()
            if grad_x is not None:
                grad_x.addmm_(grad_N_O, block)
            if grad_weight is not None:
                grad_weight[part] = grad_N_O.T @ wide_N_I
        grad_bias = outer[0].sum(0) if needs_bias else None
        return None if grad_x is None else grad_x.to(x_N_I.dtype), grad_weight, grad_bias
