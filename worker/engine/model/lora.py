"""LoRA's layers in training, with fewer and cheaper operations than peft's.

peft converts a layer's input to float32, multiplies it by A and B there, scales and adds the update, and converts the
sum back. Here a layer is one autograd function in the model's type. The matrix product with B also adds the update to
the base layer's output, and the product with A also adds to the input's gradient. A and B stay float32 parameters; only
their copies are rounded. Each copy and product is rounded to bfloat16 once, as every other product of the model is.

`apply` replaces the forward of single layers. Layers of other kinds keep peft's forward.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.lora.bnb import Linear4bit as LoraLinear4bit
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn
from torch.nn.functional import linear

from worker.engine.model.products import blocks, product_type

ADAPTER = "default"


def apply(model: nn.Module) -> Callable[[], None]:
    """Replace the forward of the model's LoRA layers. Return a function that restores peft's forward."""
    replaced = _plain_layers(model)
    for layer in replaced:
        layer.forward = partial(_forward, layer)

    def restore() -> None:
        for layer in replaced:
            del layer.forward

    return restore


@torch.no_grad()
def without_update(model: nn.Module) -> list[Any]:
    """Return the LoRA layers whose B is zero, as all are before the first step of most adapters. On a GPU, the host
    waits for the weights once."""
    layers = _plain_layers(model)
    changes = torch.stack([layer.lora_B[ADAPTER].weight.any() for layer in layers]).tolist() if layers else []
    return [layer for layer, changed in zip(layers, changes, strict=True) if not changed]


@contextmanager
def base_alone(layers: Sequence[Any]) -> Iterator[None]:
    """Within the context, these LoRA layers compute their base layer alone. Without an update, that gives the same
    outputs in less time."""
    for layer in layers:
        layer._disable_adapters = True  # `enable_adapters` would also turn the gradients of A and B off
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


@contextmanager
@torch.no_grad()
def rounded_once(model: nn.Module) -> Iterator[None]:
    """Within the context, the layers whose forward `apply` replaced use copies of A and B that were rounded at its
    beginning, and keep nothing for a backward pass. A pass over single tokens would otherwise take as long to round A
    and B as to multiply by them."""
    layers = [layer for layer in _plain_layers(model) if "forward" in vars(layer) and not layer.disable_adapters]
    layers = [layer for layer in layers if not layer.merged and type(layer.base_layer) is nn.Linear]
    for layer in layers:
        dtype = layer.base_layer.weight.dtype
        A, B = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        layer.forward = partial(_sampling_forward, layer, A.to(dtype), (B * layer.scaling[ADAPTER]).to(dtype))
    try:
        yield
    finally:
        for layer in layers:
            layer.forward = partial(_forward, layer)


def _plain_layers(model: nn.Module) -> list[Any]:
    """Return the LoRA layers whose update is the product B A alone, unlike DoRA's update."""
    layers: list[Any] = [module for module in model.modules() if type(module) in (LoraLinear, LoraLinear4bit)]
    return [layer for layer in layers if not layer.lora_variant and not layer.lora_bias[ADAPTER]]


def _forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    base, dropout, scale = layer.base_layer, layer.lora_dropout[ADAPTER], layer.scaling[ADAPTER]
    A, B = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    drops = layer.training and not isinstance(dropout, nn.Identity)
    result: torch.Tensor
    # A merged layer's weight has the update already (worker.engine.model.temporary_merge).
    if layer.merged or layer.disable_adapters:
        result = base(x)
    elif type(base) is nn.Linear and not base.weight.requires_grad and not drops:
        result_N = _Adapted.apply(_rows(x), base.weight, base.bias, A, B, scale)  # type: ignore[no-untyped-call]
        result = result_N.view(*x.shape[:-1], -1)
    else:
        result = base(x)
        result_N = _Updated.apply(_rows(result), _rows(dropout(x)), A, B, scale)  # type: ignore[no-untyped-call]
        result = result_N.view(result.shape)
    return result


def _sampling_forward(layer: Any, A: torch.Tensor, scaled_B: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    base, x_N = layer.base_layer, _rows(x)
    if product_type(x_N) != A.dtype:  # the rows of prompts, where bfloat16 is slow
        return _forward(layer, x)
    result_N = linear(x_N, base.weight, base.bias).addmm_(x_N @ A.T, scaled_B.T)
    return result_N.view(*x.shape[:-1], -1)


def _rows(x: torch.Tensor) -> torch.Tensor:
    """Return x [..., D] as [N, D]. The autograd functions return no views of their own, because torch forbids to change
    such views in place, as Falcon does."""
    return x.reshape(-1, x.shape[-1])


class _Adapted(torch.autograd.Function):
    """W x + b + s B A x with frozen W and b. x [N, in] → [N, out]"""

    @staticmethod
    def forward(
        ctx: Any,
        x_N: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        A: torch.Tensor,
        B: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        ctx.scale, ctx.stored = scale, A.dtype
        dtype = product_type(x_N)
        A, scaled_B = A.to(dtype), (B * scale).to(dtype)
        wide_N = x_N.to(dtype)
        down_N = wide_N @ A.T
        if weight.dtype == dtype:
            result_N = linear(wide_N, weight, bias).addmm_(down_N, scaled_B.T)
        else:
            result_N = x_N.new_empty(len(x_N), len(weight))
            for part, block in blocks(weight, dtype):
                offset = None if bias is None else bias[part].to(dtype)
                result_N[:, part] = linear(wide_N, block, offset).addmm_(down_N, scaled_B[part].T)
        ctx.save_for_backward(x_N, down_N, weight, A, scaled_B)
        return result_N

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_N, down_N, weight, A, scaled_B = ctx.saved_tensors
        grad_N = outer[0].to(A.dtype)
        grad_down_N = grad_N @ scaled_B
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x_N = grad_down_N @ A
            for part, block in blocks(weight, A.dtype):
                grad_x_N.addmm_(grad_N[:, part], block)
            grad_x = grad_x_N.to(x_N.dtype)
        return grad_x, None, None, *_factors(ctx, x_N.to(A.dtype), down_N, grad_N, grad_down_N), None


class _Updated(torch.autograd.Function):
    """result + s B A x, for any base layer and for an input that dropout changed. result [N, out], x [N, in]"""

    @staticmethod
    def forward(
        ctx: Any, result_N: torch.Tensor, x_N: torch.Tensor, A: torch.Tensor, B: torch.Tensor, scale: float
    ) -> torch.Tensor:
        ctx.scale, ctx.stored = scale, A.dtype
        dtype = product_type(x_N)
        A, scaled_B = A.to(dtype), (B * scale).to(dtype)
        down_N = x_N.to(dtype) @ A.T
        updated_N = torch.addmm(result_N.to(dtype), down_N, scaled_B.T)
        ctx.save_for_backward(x_N, down_N, A, scaled_B)
        return updated_N.to(result_N.dtype)

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_N, down_N, A, scaled_B = ctx.saved_tensors
        grad_N = outer[0].to(A.dtype)
        grad_down_N = grad_N @ scaled_B
        grad_x = None
        if ctx.needs_input_grad[1]:
            grad_x = (grad_down_N @ A).to(x_N.dtype)
        return outer[0], grad_x, *_factors(ctx, x_N.to(A.dtype), down_N, grad_N, grad_down_N), None


def _factors(
    ctx: Any, x_N: torch.Tensor, down_N: torch.Tensor, grad_N: torch.Tensor, grad_down_N: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of A and B, in the type of A and B."""
    return (grad_down_N.T @ x_N).to(ctx.stored), (grad_N.T @ down_N).to(ctx.stored) * ctx.scale
