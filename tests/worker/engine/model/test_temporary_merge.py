"""Adapters merged into the weights for a while."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from api.spec.techniques.lora import Lora
from tests.tiny_models import make_model, tiny_config
from tests.worker import pairs
from tests.worker.parity import ours
from worker.engine.model import temporary_merge
from worker.engine.model.adapters import peft_config
from worker.engine.model.temporary_merge import merged_adapters
from worker.engine.model.trainable import TrainableModel
from worker.shared.judgements import Interrupted

TECHNIQUES: list[dict[str, Any]] = [
    {"type": "lora", "rank": 4},
    {"type": "lora", "rank": 4, "init": "pissa"},
    {"type": "dora", "rank": 4},
    {"type": "ia3"},
]


def changed(technique: dict[str, Any], base: Path, run: Path, precision: str = "float32") -> TrainableModel:
    recipe = ours.settled("supervised", {}, technique).model_copy(update={"precision": precision})
    objective = ours.begin(base, run, recipe)
    ours.change_weights(objective, 0.1)
    objective.model.train(False)
    return objective.model


def logits(model: TrainableModel) -> torch.Tensor:
    with torch.no_grad():
        model.network.set_attn_implementation("sdpa")
        found: torch.Tensor = model.network(input_ids=torch.arange(1, 40)[None]).logits
    return found


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda each: each.get("init") or each["type"])
def test_a_merged_model_computes_the_same(technique: dict[str, Any], tiny_llama: Path, tmp_path: Path) -> None:
    model = changed(technique, tiny_llama, tmp_path / "run")
    separate = logits(model)
    with merged_adapters(model.model):
        layers = [each for each in model.model.modules() if getattr(each, "merged", False)]
        together = logits(model)
    assert len(layers) > 4
    torch.testing.assert_close(together, separate, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda each: each.get("init") or each["type"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_afterwards_every_weight_is_what_it_was(
    precision: str, technique: dict[str, Any], tiny_llama: Path, tmp_path: Path
) -> None:
    model = changed(technique, tiny_llama, tmp_path / "run", precision)
    before, addresses = (
        pairs.digest(model.model.state_dict().items()),
        [each.data_ptr() for each in model.model.parameters()],
    )
    outputs = logits(model)
    with contextlib.suppress(Interrupted), merged_adapters(model.model):
        assert pairs.digest(model.model.state_dict().items()) != before
        raise Interrupted
    assert pairs.digest(model.model.state_dict().items()) == before
    assert [each.data_ptr() for each in model.model.parameters()] == addresses
    assert torch.equal(logits(model), outputs)


def test_four_bit_weights_keep_their_adapters_beside_them(tmp_path: Path, seed: int) -> None:
    base = make_model(tmp_path / "base", "llama_wide", seed)
    model = changed({"type": "qlora", "rank": 4}, base, tmp_path / "run")
    separate = logits(model)
    with merged_adapters(model.model):
        assert torch.equal(logits(model), separate)
        assert not [each for each in model.model.modules() if getattr(each, "merged", False)]


@pytest.mark.parametrize("family", ["qwen3_moe", "granitemoe", "glm4_moe"])
def test_several_tensors_of_one_layer_of_experts_are_merged(family: str) -> None:
    network = AutoModelForCausalLM.from_config(tiny_config(family))
    model = get_peft_model(network, peft_config(network, Lora(rank=4), "tokens")).eval()
    tokens = torch.arange(1, 20)[None]
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight) * weight.requires_grad)
        before = pairs.digest(model.state_dict().items())
        separate = model(tokens).logits
        with merged_adapters(model):
            together = model(tokens).logits
            assert pairs.digest(model.state_dict().items()) != before
    torch.testing.assert_close(together, separate, rtol=1e-4, atol=1e-4)
    assert pairs.digest(model.state_dict().items()) == before


def test_an_adapter_of_a_head_does_not_change_the_embeddings_that_share_its_weights(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = AutoModelForCausalLM.from_pretrained(tiny_llama)
    assert network.lm_head.weight is network.model.embed_tokens.weight
    model = get_peft_model(network, LoraConfig(target_modules=["lm_head", "q_proj"]))
    drawn: list[nn.Module] = []
    monkeypatch.setattr(temporary_merge, "_noise", drawn.extend)
    with merged_adapters(model):
        found = {name.split(".")[-1] for name, each in model.named_modules() if getattr(each, "merged", False)}
    assert found == {"q_proj"}
    assert network.lm_head.base_layer not in drawn


def test_a_small_update_is_kept_on_average() -> None:
    """Rounding to the nearest bfloat16 would lose it: the numbers there are 2^-8 apart."""
    weights = torch.full((200_000,), -(1 + 2.0**-11))
    noise = temporary_merge._noise([nn.Linear(1000, 500, bias=False, dtype=torch.bfloat16)])
    rounded = temporary_merge._rounded(weights, torch.bfloat16, noise)
    assert rounded.dtype == torch.bfloat16
    assert set(rounded.tolist()) == {-1.0, -(1 + 2.0**-7)}
    assert float(rounded.double().mean()) == pytest.approx(-(1 + 2.0**-11), abs=1e-4)
