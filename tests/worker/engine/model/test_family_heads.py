"""Heads under other names than `lm_head` and `score` are applied, trained and left unquantized as the others are."""

from pathlib import Path
from typing import Any

import bitsandbytes
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from api.spec.resolve import Labels
from tests.tiny_models import make_tokenizer
from tests.worker.every_family import tiny_config
from tests.worker.parity import ours
from worker.engine.publish.outputs import plain_outputs


def make_base(folder: Path, family: str, **options: Any) -> Path:
    """A tiny model of any family."""
    config = tiny_config(family)
    config.update(options)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2:
                weight.normal_(0.0, 0.2)
    model.save_pretrained(folder)
    make_tokenizer(folder)
    return folder


def drawn_rows(seed: int, count: int = 4) -> Any:
    rng = np.random.default_rng(seed)
    return ours.rows_of(
        [ours.answering(ours.drawn(rng, 2, 9), ours.drawn(rng, 2, 9)) for _ in range(count)], labels=np.arange(count)
    )


@pytest.mark.parametrize("technique", [ours.FULL, ours.LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", ["modernbert-decoder", "ctrl", "opt"])
def test_a_classifiers_layers_are_applied_as_transformers_does(
    family: str, technique: Any, tmp_path: Path, seed: int
) -> None:
    """ModernBERT's decoders have a dense layer below the head."""
    torch.manual_seed(seed)
    base = make_base(tmp_path / "base", family)
    recipe = ours.settled("classification", {}, technique)
    recipe = recipe.model_copy(update={"labels": Labels(problem="single_label", names=("a", "b", "c", "d"))})
    objective = ours.begin(base, tmp_path / "run", recipe)
    ours.change_weights(objective, by=0.1)
    rows = drawn_rows(seed)
    expected = torch.stack(plain_outputs(ours.in_transformers(objective), recipe, rows))
    objective.model.train(False)
    found = torch.zeros_like(expected)
    with torch.no_grad():
        for batch in objective.batches(rows):
            found[batch.rows] = objective.model.sequence_scores(batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    _, gradients = ours.loss_and_gradients(objective, rows)
    assert all(gradient.any() for name, gradient in gradients.items() if "lora_A" not in name)


@pytest.mark.parametrize("family", ["modernbert-decoder", "biogpt", "gpt_neox_japanese"])
def test_an_output_layer_of_any_name_is_not_quantized(family: str, tmp_path: Path, seed: int) -> None:
    """It shares the weights of the input embeddings."""
    base = make_base(tmp_path / "base", family)
    objective = ours.begin(base, tmp_path / "run", ours.settled("supervised", {}, {"type": "qlora", "rank": 4}))
    network = objective.model.network
    assert any(isinstance(module, bitsandbytes.nn.Linear4bit) for module in network.modules())
    assert type(network.get_output_embeddings()) is torch.nn.Linear
    loss, _ = ours.loss_and_gradients(objective, drawn_rows(seed))
    assert np.isfinite(loss)


def test_ppo_values_the_states_that_opt_projects(tmp_path: Path, seed: int) -> None:
    """OPT-350m's hidden states are wider than its embeddings."""
    base = make_base(tmp_path / "base", "opt", word_embed_proj_dim=32)
    grader = {
        "type": "string_check",
        "name": "g",
        "input": "{{sample.output_text}}",
        "reference": "a",
        "operation": "eq",
    }
    objective = ours.begin(base, tmp_path / "run", ours.settled("ppo", {"grader": grader}, ours.LORA))
    rows = drawn_rows(seed)
    for batch in objective.batches(rows):
        scores, values_S = objective.model.scores_and_values(batch)
        assert values_S is not None
        assert values_S.shape == scores.logprobs.shape
