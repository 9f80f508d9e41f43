"""What api.estimate says a technique trains, against what the trainer does train."""

from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import AutoConfig

from api.estimate.shapes import trained_parameters
from api.spec.base_model import BaseModelFacts
from api.spec.recipe import Recipe
from api.spec.resolve import Labels, ResolvedRecipe, resolve
from tests.tiny_models import make_encoder, make_model
from worker.bases.shapes import shapes_of
from worker.engine.model.load import load_trainable

TECHNIQUES: dict[str, dict[str, Any]] = {
    "lora": {"type": "lora", "rank": 4},
    "named": {"type": "lora", "target_modules": r".*layers\.0\..*(q|v)_proj", "rank_pattern": {"q_proj": 3}},
    "dora": {"type": "dora", "rank": 4},
    "prefix": {"type": "prefix", "tokens": 3},
    "prompt": {"type": "prompt", "tokens": 3},
    "ia3": {"type": "ia3"},
    "houlsby": {"type": "bottleneck", "placement": "houlsby", "reduction_factor": 8},
    "pfeiffer": {"type": "bottleneck", "reduction_factor": 8},
    "full": {"type": "full"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("families")

    @cache
    def make(family: str, encoder: bool) -> Path:
        make_one: Any = make_encoder if encoder else make_model
        path: Path = make_one(folder / family, family)
        return path

    return make


def counts(base: Path, recipe: ResolvedRecipe) -> tuple[int, int]:
    """(predicted, trained)"""
    config = AutoConfig.from_pretrained(base)
    facts = cast(
        BaseModelFacts,
        {
            "parameters": 0,
            "layers": config.num_hidden_layers,
            "hidden_size": config.hidden_size,
            "shapes": shapes_of(config),
        },
    )
    labels = len(recipe.labels.names) if recipe.labels else None
    model = load_trainable(base, recipe, torch.device("cpu"))
    trained = sum(master.numel() for master in model.masters.values())
    return trained_parameters(recipe.technique, recipe.method, facts, labels=labels), trained


def a_recipe(technique: str, method: dict[str, Any], labels: Labels | None = None) -> ResolvedRecipe:
    body = {"model": "m", "training_file": "file-x", "technique": TECHNIQUES[technique], "method": method}
    recipe = Recipe.model_validate(body | {"training": {"precision": "float32"}})
    resolved = resolve(recipe, job_id="j", seed=1, max_length=16, train_rows=10, validation_rows=0, labels=labels)
    return resolved.model_copy(update={"gradient_checkpointing": False})


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "phi3", "gemma2"])
@pytest.mark.parametrize("technique", [name for name in TECHNIQUES if name != "named"])
def test_a_language_models_count_is_exact(family: str, technique: str, made: Any) -> None:
    if (family, technique) == ("phi3", "ia3"):
        pytest.skip("peft knows no layers of this family for (IA)³")
    predicted, trained = counts(made(family, False), a_recipe(technique, {"type": "supervised"}))
    assert predicted == trained


def test_layers_chosen_by_an_expression_and_ranks_of_their_own_count(made: Any) -> None:
    predicted, trained = counts(made("llama", False), a_recipe("named", {"type": "supervised"}))
    assert predicted == trained


@pytest.mark.parametrize(
    ("family", "technique"),
    [
        *[(family, technique) for family in ("llama", "bert", "roberta") for technique in ("lora", "full", "pfeiffer")],
        ("distilbert", "full"),
        ("modernbert", "full"),
    ],
)
def test_a_classifiers_head_counts_with_its_labels(family: str, technique: str, made: Any) -> None:
    labels = Labels(problem="single_label", names=("a", "b", "c", "d", "e"))
    recipe = a_recipe(technique, {"type": "classification"}, labels)
    predicted, trained = counts(made(family, family != "llama"), recipe)
    assert predicted == trained


def test_a_reward_models_head_counts(made: Any) -> None:
    predicted, trained = counts(made("llama", False), a_recipe("lora", {"type": "reward"}))
    assert predicted == trained
