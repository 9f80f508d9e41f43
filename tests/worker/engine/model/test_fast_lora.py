"""LoRA's own function computes what peft computes, forward and backward."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora.bnb import Linear4bit as LoraLinear4bit
from torch import nn
from transformers.pytorch_utils import Conv1D

from worker.engine.model import lora, products

Base = Callable[[], nn.Module]
Found = dict[str, torch.Tensor]


def _adapted(base: nn.Module, dtype: torch.dtype, **options: Any) -> Any:
    """Return the layer with a random update. Its factors are float32, or float64 in a float64 model."""
    given: dict[str, Any] = {"r": 4, "lora_alpha": 12, "target_modules": ["0"]} | options
    model: Any = inject_adapter_in_model(LoraConfig(**given), nn.Sequential(base).to(dtype))
    layer = model[0]
    for factors in (layer.lora_A, layer.lora_B):
        nn.init.normal_(factors["default"].to(dtype if dtype == torch.float64 else torch.float32).weight, std=0.3)
    return layer


def _found(layer: Any, x: torch.Tensor, outer: torch.Tensor, seed: int) -> Found:
    torch.manual_seed(seed)  # of dropout
    weights = [x, layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    result = layer(x).add_(0.0)  # Falcon changes outputs in place
    grads = torch.autograd.grad(result, weights, outer)
    return dict(zip(("result", "x", "A", "B"), (result, *grads), strict=True))


def _inputs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 9, 64, dtype=dtype, requires_grad=True), torch.randn(2, 9, 24, dtype=dtype)


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"lora_dropout": 0.4}, {"r": 1, "lora_alpha": 3}])
@pytest.mark.parametrize(
    "base", [lambda: nn.Linear(64, 24), lambda: nn.Linear(64, 24, bias=False), lambda: Conv1D(24, 64)]
)
def test_results_and_gradients_are_pefts(base: Base, options: dict[str, Any], seed: int) -> None:
    torch.manual_seed(seed)
    conv = isinstance(base(), Conv1D)
    layer = _adapted(base(), torch.float64, **options, **({"fan_in_fan_out": True} if conv else {}))
    inputs = _inputs(torch.float64)
    expected = _found(layer, *inputs, seed)
    restore = lora.apply(nn.Sequential(layer))
    found = _found(layer, *inputs, seed)
    restore()
    assert layer.forward.__func__ is type(layer).forward
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("options", [{}, {"lora_dropout": 0.4}])
def test_bfloat16_differs_from_exact_arithmetic_by_its_roundings(
    options: dict[str, Any], fast: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number is rounded by at most 2^-9 of itself. Factors, products and sums are rounded one after the other, four
    or five times on the way to a gradient, so norms may differ by 2^-6, as those of the frozen product do."""
    torch.manual_seed(seed)
    monkeypatch.setattr(products, "cpu_trains_in_bfloat16", lambda: fast)
    monkeypatch.setattr(products, "FEWEST_ROWS", 1)
    monkeypatch.setattr(products, "BLOCK", 1000)  # two blocks
    exact = _adapted(nn.Linear(64, 24), torch.float64, **options)
    rounded = _adapted(nn.Linear(64, 24), torch.bfloat16, **options)
    with torch.no_grad():
        for ours, theirs in zip(rounded.parameters(), exact.parameters(), strict=True):
            ours.copy_(theirs)
            theirs.copy_(ours)  # factors stay float32; the base's weights are the rounded ones in both
    x, outer = _inputs(torch.bfloat16)
    expected = _found(exact, x.detach().double().requires_grad_(), outer.double(), seed)
    lora.apply(nn.Sequential(rounded))
    found = _found(rounded, x, outer, seed)
    assert [found[name].dtype for name in ("result", "x", "A", "B")] == [torch.bfloat16] * 2 + [torch.float32] * 2
    for name, values in expected.items():
        assert (found[name].double() - values).norm() <= 2**-6 * values.norm(), name


def test_a_quantized_base_is_computed_by_its_own_library(seed: int) -> None:
    torch.manual_seed(seed)
    base = Linear4bit(64, 24, bias=False, compute_dtype=torch.float32, quant_type="nf4").to("cpu")
    layer: Any = LoraLinear4bit(base, "default", config=LoraConfig(r=4), r=4, lora_alpha=12)
    nn.init.normal_(layer.lora_B["default"].weight)
    inputs = _inputs(torch.float32)
    expected = _found(layer, *inputs, seed)
    lora.apply(nn.Sequential(layer))
    assert "forward" in vars(layer)
    for name, values in _found(layer, *inputs, seed).items():
        torch.testing.assert_close(values, expected[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_bias": True}])
def test_other_updates_keep_pefts_forward(options: dict[str, Any]) -> None:
    layer = _adapted(nn.Linear(64, 24), torch.float32, **options)
    lora.apply(nn.Sequential(layer))
    assert "forward" not in vars(layer)


def test_embeddings_keep_pefts_forward() -> None:
    model: Any = inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"]), nn.Sequential(nn.Embedding(8, 4)))
    lora.apply(model)
    assert "forward" not in vars(model[0])


def test_updates_that_are_zero_are_skipped_and_no_others(seed: int) -> None:
    torch.manual_seed(seed)
    zero, other = (_adapted(nn.Linear(64, 24), torch.bfloat16) for _ in range(2))
    nn.init.zeros_(zero.lora_B["default"].weight)
    model = nn.Sequential(zero, nn.Linear(24, 64, dtype=torch.bfloat16), other)
    lora.apply(model)
    x = torch.randn(2, 9, 64, dtype=torch.bfloat16)
    with torch.no_grad():
        expected, of_both = zero(x), model(x)
        with lora.base_alone(lora.without_update(model)):
            nn.init.constant_(zero.lora_A["default"].weight, math.nan)  # nobody reads it
            assert torch.equal(zero(x), expected)
            assert torch.equal(model(x), of_both)
        assert zero(x).isnan().all()


@pytest.mark.parametrize(("dtype", "fast"), [(torch.float32, True), (torch.bfloat16, True), (torch.bfloat16, False)])
def test_factors_that_are_rounded_once_give_the_same_outputs(
    dtype: torch.dtype, fast: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(seed)
    monkeypatch.setattr(products, "cpu_trains_in_bfloat16", lambda: fast)
    monkeypatch.setattr(products, "FEWEST_ROWS", 9)
    layers = [_adapted(nn.Linear(64, 64, bias=bias), dtype) for bias in (True, False)]
    untouched = _adapted(nn.Linear(64, 64), dtype, use_dora=True)
    model = nn.Sequential(*layers, untouched)
    lora.apply(model)
    many, few = torch.randn(3, 9, 64, dtype=dtype), torch.randn(3, 1, 64, dtype=dtype)
    with torch.no_grad():
        expected = [model(many), model(few)]
        with lora.rounded_once(model):
            assert torch.equal(model(many), expected[0])
            assert torch.equal(model(few), expected[1])
            for layer in layers:
                nn.init.constant_(layer.lora_B["default"].weight, math.nan)
            assert model(few).isfinite().all()
        assert model(few).isnan().all()
