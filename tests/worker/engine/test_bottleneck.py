"""Bottleneck adapters change a frozen model as the papers say, by every way it is run."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from api.estimate.work import PACKED_FAMILIES
from api.spec.techniques.bottleneck import Bottleneck
from tests.tiny_models import ENCODERS, make_encoder
from tests.worker.losses import as_rows, plain_loss, trainer_loss, worst_difference
from tests.worker.run_folders import random_rows
from worker.techniques.bottleneck import add, load_bottleneck, save
from worker.techniques.bottleneck_families import FAMILIES

TOKENS_B_T = torch.arange(24).view(2, 12)
LAYERS, HIDDEN = 2, 32
HOULSBY = Bottleneck(placement="houlsby", reduction_factor=4, non_linearity="gelu")
PFEIFFER = Bottleneck(placement="pfeiffer", reduction_factor=4, non_linearity="tanh")
BOTH = pytest.mark.parametrize("technique", [HOULSBY, PFEIFFER], ids=["houlsby", "pfeiffer"])
PLACED = sorted(FAMILIES)


@pytest.fixture(scope="module")
def tiny(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny base of each family that adapters have a place in."""
    folder = tmp_path_factory.mktemp("encoders")
    return bases | {family: make_encoder(folder / family, family, labels=3) for family in ENCODERS}


def _load(base: Path, **options: Any) -> Any:
    auto: Any = AutoModelForSequenceClassification if base.name in ENCODERS else AutoModelForCausalLM
    return auto.from_pretrained(base, **options).eval()


@torch.no_grad()
def _logits(model: Any) -> torch.Tensor:
    logits: torch.Tensor = model(TOKENS_B_T).logits
    return logits


def _trained(base: Path, technique: Bottleneck) -> Any:
    """As after some training: no weight is what it was."""
    model = _load(base)
    for parameter in add(model, technique).values():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def _saved(base: Path, technique: Bottleneck, folder: Path) -> Path:
    folder.mkdir()
    save(_trained(base, technique), technique, folder, "tiny")
    return folder


@BOTH
@pytest.mark.parametrize("family", PLACED)
def test_training_begins_at_the_base_model(family: str, technique: Bottleneck, tiny: dict[str, Path]) -> None:
    model = _load(tiny[family])
    before = _logits(model)
    add(model, technique)
    assert torch.equal(_logits(model), before)


@BOTH
@pytest.mark.parametrize("family", PLACED)
def test_files_give_the_trained_model_and_so_does_a_copy_in_memory(
    family: str, technique: Bottleneck, tiny: dict[str, Path], tmp_path: Path
) -> None:
    model = _trained(tiny[family], technique)
    save(model, technique, tmp_path, "tiny")
    loaded = load_bottleneck(_load(tiny[family]), tmp_path)
    assert (_logits(model) - _logits(_load(tiny[family]))).abs().max() > 1e-2
    assert torch.equal(_logits(loaded), _logits(model))
    copied = copy.deepcopy(loaded)
    torch.nn.init.zeros_(next(p for p in loaded.parameters() if p.requires_grad))
    assert torch.equal(_logits(copied), _logits(model))


@BOTH
def test_a_step_moves_every_adapter_and_not_a_byte_of_the_base(technique: Bottleneck, tiny: dict[str, Path]) -> None:
    model = _load(tiny["llama"], dtype=torch.bfloat16)
    base = {name: weight.clone() for name, weight in model.state_dict().items()}
    trained = add(model, technique)
    for parameter in trained.values():
        torch.nn.init.normal_(parameter, std=0.2)
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    model(TOKENS_B_T, labels=TOKENS_B_T).loss.backward()
    torch.optim.SGD(trained.values(), lr=1.0).step()
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in base.items())
    assert not any(torch.equal(parameter, before[name]) for name, parameter in trained.items())
    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}
    assert model(TOKENS_B_T).logits.dtype == torch.bfloat16


@BOTH
@pytest.mark.parametrize("family", sorted(PACKED_FAMILIES & FAMILIES.keys()))
def test_packed_rows_train_adapters_as_single_examples_do(
    family: str, technique: Bottleneck, tiny: dict[str, Path], tmp_path: Path, seed: int
) -> None:
    rows = as_rows(tmp_path, random_rows(7, seed=seed, shortest=3, longest=32))
    folder = _saved(tiny[family], technique, tmp_path / "adapter")
    loss, gradients, model = trainer_loss(tiny[family], rows, adapt=lambda lm: load_bottleneck(lm, folder))
    expected_loss, expected = plain_loss(tiny[family], rows, adapt=lambda lm: load_bottleneck(lm, folder))
    assert model.layout.packed
    assert len(gradients) == len(model.trained)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert worst_difference(gradients, expected) < 1e-5


@BOTH
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_recomputing_activations_changes_no_gradient(family: str, technique: Bottleneck, tiny: dict[str, Path]) -> None:
    model = _trained(tiny[family], technique).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    plain = torch.autograd.grad(model(TOKENS_B_T).logits.square().sum(), list(trained.values()))
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    again = torch.autograd.grad(model(TOKENS_B_T).logits.square().sum(), list(trained.values()))
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))


@BOTH
def test_generation_with_a_cache_chooses_what_the_whole_forward_would(
    technique: Bottleneck, tiny: dict[str, Path]
) -> None:
    model = _trained(tiny["llama"], technique)
    written = model.generate(TOKENS_B_T, max_new_tokens=6, do_sample=False, eos_token_id=None)
    with torch.no_grad():
        likeliest = model(written).logits.argmax(-1)
    assert torch.equal(written[:, 12:], likeliest[:, 11:-1])


def test_houlsby_has_two_adapters_in_a_layer_and_pfeiffer_one(tiny: dict[str, Path]) -> None:
    counts = {}
    for technique in (HOULSBY, PFEIFFER):
        trained = add(_load(tiny["llama"]), technique)
        counts[technique.placement] = sum(parameter.numel() for parameter in trained.values())
    m = HIDDEN // 4
    assert counts["pfeiffer"] == LAYERS * (2 * m * HIDDEN + HIDDEN + m)  # Houlsby et al., section 2.1
    assert counts["houlsby"] == 2 * counts["pfeiffer"]


def test_a_bottleneck_is_never_narrower_than_one(tiny: dict[str, Path]) -> None:
    trained = add(_load(tiny["llama"]), Bottleneck(reduction_factor=1000))
    assert {len(parameter) for name, parameter in trained.items() if "down" in name} == {1}


def test_the_head_of_a_classifier_is_trained_too_but_not_that_of_a_language_model(tiny: dict[str, Path]) -> None:
    beside = {
        family: {name for name in add(_load(tiny[family]), PFEIFFER) if ".adapters." not in name}
        for family in ("bert", "gpt2", "llama")
    }
    assert beside == {"bert": {"classifier.weight", "classifier.bias"}, "gpt2": set(), "llama": set()}
