"""Products in float32 of bfloat16 models, on processors that multiply bfloat16 slowly."""

import pytest
import torch
from torch import nn

from worker.engine.model import products

ROUNDED = 2**-8
"""Twice the largest relative error of a number that is rounded to bfloat16."""


@pytest.fixture(autouse=True)
def slow_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "cpu_trains_in_bfloat16", lambda: False)
    monkeypatch.setattr(products, "BLOCK", 1000)  # several blocks, of which the last one is smaller


def _found(layer: nn.Linear, x: torch.Tensor, outer: torch.Tensor) -> list[torch.Tensor]:
    result = layer(x)
    trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    return [result, *torch.autograd.grad(result, [x, *trained], outer.to(x.dtype))]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("trained", [True, False])
def test_results_and_gradients_are_rounded_once(bias: bool, trained: bool, seed: int) -> None:
    torch.manual_seed(seed)
    layer = nn.Linear(64, 100, bias=bias, dtype=torch.bfloat16).requires_grad_(trained)
    exact = nn.Linear(64, 100, bias=bias, dtype=torch.float64).requires_grad_(trained)
    exact.load_state_dict(layer.state_dict())
    x, outer = (torch.randn(2, 40, width, dtype=torch.bfloat16) for width in (64, 100))
    expected = _found(exact, x.double().requires_grad_(), outer)
    restore = products.replace_linear_layers(nn.Sequential(layer))
    found = _found(layer, x.requires_grad_(), outer)
    restore()
    assert "forward" not in vars(layer)
    assert len(found) == 2 + trained * (1 + bias)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.double(), theirs, rtol=ROUNDED, atol=1e-4)


def test_few_rows_and_other_types_keep_their_product() -> None:
    layer = nn.Linear(8, 4, dtype=torch.bfloat16)
    products.replace_linear_layers(nn.Sequential(layer))
    few = torch.randn(products.FEWEST_ROWS - 1, 8, dtype=torch.bfloat16)
    assert torch.equal(layer(few), nn.functional.linear(few, layer.weight, layer.bias))
    assert products.product_type(few) == torch.bfloat16
    assert products.product_type(torch.randn(100, 8, dtype=torch.float64)) == torch.float64


def test_a_processor_that_multiplies_bfloat16_fast_does_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "cpu_trains_in_bfloat16", lambda: True)
    assert products.product_type(torch.randn(100, 8, dtype=torch.bfloat16)) == torch.bfloat16
