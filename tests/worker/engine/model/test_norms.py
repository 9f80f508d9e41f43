"""torch's RMSNorm computes what the libraries' layers compute."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from api.estimate.work import PACKED_FAMILIES
from tests.tiny_models import tiny_config
from worker.engine.model.norms import replace_norms

OTHERS = {"gemma2", "gemma3_text", "gpt2", "phi"}
"""Families whose norms add 1 to their weights, or subtract the mean."""


@pytest.mark.parametrize("family", sorted(PACKED_FAMILIES))
def test_the_model_computes_the_same_with_replaced_norms(family: str, seed: int) -> None:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family), dtype=torch.float32).eval()
    norms = {name: module for name, module in model.named_modules() if type(module).__name__.endswith("RMSNorm")}
    for norm in norms.values():
        torch.nn.init.normal_(norm.weight, mean=1.0, std=0.3)
    tokens = torch.randint(3, 250, (2, 9))
    expected = model(tokens).logits
    restore = replace_norms(model)
    assert all(("forward" in vars(norm)) is (family not in OTHERS) for norm in norms.values())
    found = model(tokens).logits
    weights = [norm.weight for norm in norms.values()]
    gradients = [torch.autograd.grad(logits.square().mean(), weights) for logits in (expected, found) if weights]
    restore()
    assert not any("forward" in vars(norm) for norm in norms.values())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for gradient, own in zip(*gradients, strict=True) if gradients else ():
        torch.testing.assert_close(gradient, own, rtol=1e-3, atol=1e-6)
