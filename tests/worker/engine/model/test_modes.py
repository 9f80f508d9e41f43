"""A base computes the same in training as in use, and looking at it changes nothing of it."""

import json
from pathlib import Path
from typing import Any

import bitsandbytes.nn.modules
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.tiny_models import make_model, make_tokenizer
from tests.worker.every_family import families, is_accepted, tiny_config
from tests.worker.parity import ours
from tests.worker.recorder import train_here
from tests.worker.run_folders import make_run, random_rows
from worker.bases.facts import facts_of
from worker.bases.files import Refused
from worker.bases.weights import Weights
from worker.engine.errors import TrainingError
from worker.engine.model.families import classifies, kind_of
from worker.engine.model.modes import disable_training_behavior

OFTEN = {
    "albert",
    "bert",
    "biogpt",
    "bloom",
    "falcon",
    "flaubert",
    "gpt2",
    "gpt_neo",
    "gptj",
    "llama",
    "opt",
    "persimmon",
    "phi",
    "phimoe",
    "xglm",
    "xlm",
}
"""Each keeps its dropout in its own way: modules, numbers, the configuration; layers left out, noisy routers."""


@pytest.mark.parametrize(
    "family",
    [pytest.param(each, marks=[] if each in OFTEN else [pytest.mark.pairs]) for each in families()],
)
def test_nothing_of_a_base_is_left_to_chance_in_training(family: str, seed: int) -> None:
    if not is_accepted(family):
        assert family not in OFTEN
        pytest.skip("Attune refuses it as a base model")
    config = tiny_config(family)
    kinds: list[Any] = [AutoModelForCausalLM] if kind_of(config) == "causal_lm" else []
    kinds += [AutoModelForSequenceClassification] if classifies(config) else []
    for kind in kinds:
        torch.manual_seed(seed)
        model = kind.from_config(config)
        tokens = torch.randint(5, 250, (1, 16))
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim >= 2:
                    weight.normal_(0.0, 0.2)
            model.eval()
            published = _outputs(model, tokens)
            disable_training_behavior(model)
            model.train()
            first, second = (_outputs(model, tokens) for _ in range(2))
            model.eval()
            in_use = _outputs(model, tokens)
        assert torch.equal(first, second), kind
        torch.testing.assert_close(first, in_use, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(in_use, published, rtol=1e-5, atol=1e-5, msg=f"{kind}: another model than the base")


def _outputs(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    outputs: torch.Tensor = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    return outputs


@pytest.mark.parametrize("technique", ["full", "lora"])
@pytest.mark.parametrize("family", ["falcon", "opt"])
def test_what_is_published_names_the_bases_own_dropout(family: str, technique: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    config = tiny_config(family)
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    make_tokenizer(base)
    run = make_run(
        tmp_path / "run",
        base,
        train=random_rows(8, seed=4),
        technique={"type": technique},
        training={"max_steps": 2},
        hardware={"merged": technique != "full"},
    )
    train_here(run)
    published = run / "out" / "model" / ("merged" if technique == "lora" else "")
    given, written = (json.loads((folder / "config.json").read_bytes()) for folder in (base, published))
    dropout = {name: value for name, value in given.items() if "drop" in name}
    assert 0.5 in dropout.values()
    assert {name: value for name, value in written.items() if "drop" in name} == dropout


@pytest.fixture
def packing_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes believes to be on a processor with AVX512-BF16, where it rearranges weights in evaluation mode."""
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: True)


@pytest.mark.usefixtures("packing_processor")
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("quantization", ["nf4", "fp4"])
def test_an_evaluation_leaves_the_gradient_of_four_bit_layers(
    quantization: str, double: bool, wide_llama: Path, tmp_path: Path, seed: int
) -> None:
    technique = {"type": "qlora", "rank": 4, "quantization": quantization, "double_quantization": double}
    torch.manual_seed(seed)
    objective = ours.begin(wide_llama, tmp_path / "run", ours.settled("supervised", {}, technique))
    ours.change_weights(objective)
    rows = ours.rows_of([ours.answering([1, 2, 3], [4, 5, 6])])
    before = ours.loss_and_gradients(objective, rows)
    objective.evaluate(rows)
    ours.assert_equal(ours.loss_and_gradients(objective, rows), before)
    layers = [each for each in objective.model.network.modules() if isinstance(each, bitsandbytes.nn.Linear4bit)]
    assert len(layers) == 14
    for layer in layers:
        x = torch.randn(3, layer.in_features, requires_grad=True)
        layer(x).sum().backward()
        weight: Any = layer.weight
        expected = dequantize_4bit(weight.data, weight.quant_state).float().sum(0).expand_as(x)
        assert x.grad is not None
        torch.testing.assert_close(x.grad, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("packing_processor")
def test_qlora_learns_in_every_layer_after_the_evaluation_before_its_first_step(
    wide_llama: Path, tmp_path: Path
) -> None:
    run = make_run(
        tmp_path / "run",
        wide_llama,
        train=random_rows(8, seed=4),
        validation=random_rows(4, seed=5),
        technique={"type": "qlora", "rank": 4},
        training={"max_steps": 2, "learning_rate": 1e-3},
    )
    assert train_here(run).of("done")
    learnt = load_file(run / "out" / "model" / "adapter_model.safetensors")
    outer = {name: weight for name, weight in learnt.items() if "lora_B" in name}
    assert len(outer) == 14
    assert all(weight.abs().max() > 0 for weight in outer.values())  # B begins at zero


@pytest.fixture(scope="module")
def wide_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its layers read 64 or 128 numbers: bitsandbytes' blocks are 64 long."""
    return make_model(tmp_path_factory.mktemp("bases") / "wide", "llama_wide")


@pytest.mark.parametrize(
    ("family", "options", "why"),
    [
        ("rwkv", {}, "weights in inference"),
        ("reformer", {}, "one length only"),
        ("big_bird", {}, "draw at random"),
        ("yoso", {"use_expectation": False}, "draw at random"),
    ],
)
def test_families_that_differ_in_use_are_refused(
    family: str, options: dict[str, Any], why: str, tmp_path: Path
) -> None:
    AutoConfig.for_model(family, **options).save_pretrained(tmp_path / "base")
    with pytest.raises(Refused, match=why):
        facts_of(
            tmp_path / "base",
            Weights(1, "float32"),
            source="tiny",
            revision=None,
            license_name=None,
            dequantised_from=None,
        )
    with pytest.raises(TrainingError, match=why):
        ours.begin(tmp_path / "base", tmp_path / "run", ours.settled("supervised", {}))
