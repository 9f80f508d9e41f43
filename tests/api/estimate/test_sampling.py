"""The memory of sampling answers, by hand."""

from typing import cast

import pytest

from api.estimate.activations import ExecutionPlan
from api.estimate.machine_fields import Machine, predict
from api.estimate.sampling import SamplingPlan, sampling_plan
from api.estimate.shapes import matrices, shapes_of
from api.estimate.work import Workload
from api.spec.base_model import BaseModelFacts
from api.spec.recipe import Recipe
from api.spec.resolve import ResolvedRecipe, resolve

FACTS = cast(
    BaseModelFacts,
    {
        "parameters": 135_000_000,
        "hidden_size": 576,
        "layers": 30,
        "vocab_size": 49152,
        "model_type": "llama",
        "dtype": "bfloat16",
    },
)
LINEAR = sum(each.size for each in matrices(shapes_of(FACTS)[0]) if each.kind == "linear")
VALUES = sum(each.inputs + each.outputs for each in matrices(shapes_of(FACTS)[0]) if each.kind == "linear")
GRADER = {"type": "string_check", "name": "g", "operation": "eq", "input": "{{sample.output_text}}", "reference": "a"}


def a_recipe(technique: str, batch_size: int = 8, group_size: int = 8, **options: object) -> ResolvedRecipe:
    options |= {"grader": GRADER, "group_size": group_size, "hyperparameters": {"batch_size": batch_size}}
    method = {"type": "reinforcement", "reinforcement": options}
    body = {"model": "m", "training_file": "file-x", "technique": {"type": technique}, "method": method}
    recipe = resolve(Recipe.model_validate(body), job_id="j", seed=1, max_length=200, train_rows=100, validation_rows=0)
    return recipe.model_copy(update={"precision": "bfloat16", "gradient_checkpointing": False})


def planned(technique: str, budget: int) -> SamplingPlan:
    return sampling_plan(a_recipe(technique), FACTS, ExecutionPlan(True, 2, budget, recompute=False))


def test_sampling_fills_the_memory_of_the_activations_with_weights_keys_and_values() -> None:
    found = planned("lora", 2048)
    activations = (0.5 * 2 + 0.39 * 4) * VALUES * 2048
    assert found.merges
    assert found.cache_tokens == pytest.approx((activations - 2 * LINEAR) / (2 * 30 * 576 * 2), rel=1e-3)


def test_weights_are_not_copied_where_they_would_take_most_of_it() -> None:
    found = planned("lora", 64)
    assert not found.merges
    assert found.cache_tokens == pytest.approx((0.5 * 2 + 0.39 * 4) * VALUES * 64 / (2 * 30 * 576 * 2), rel=1e-2)


@pytest.mark.parametrize("technique", ["qlora", "full", "ia3", "prefix"])
def test_some_techniques_have_nothing_to_merge(technique: str) -> None:
    assert not planned(technique, 2048).merges


@pytest.mark.parametrize(("batch_size", "group_size"), [(1, 2), (8, 8)])
def test_a_prediction_counts_what_sampling_needs_beyond_an_update(batch_size: int, group_size: int) -> None:
    rows = Workload(rows=100, width=1, tokens=4_000, supervised=0, lengths=(40,))
    machine = Machine(gpu=True, bfloat16=True, memory_bytes=80 << 30)
    found = predict(a_recipe("lora", batch_size, group_size), FACTS, rows, None, machine).memory
    tokens = batch_size * group_size * (40 + 64)
    sampling = 2 * LINEAR + 2 * 30 * 576 * 2 * tokens
    assert found.rollout == pytest.approx(max(0, sampling - found.activations), abs=2)
    assert (found.rollout > 0) == (batch_size == 1)


@pytest.mark.parametrize(("kl_coefficient", "copies"), [(0.0, 0), (0.1, 2)])
def test_a_whole_model_is_copied_only_if_its_divergence_enters_the_loss(kl_coefficient: float, copies: int) -> None:
    rows = Workload(rows=100, width=1, tokens=4_000, supervised=0, lengths=(40,))
    machine = Machine(gpu=True, bfloat16=True, memory_bytes=80 << 30)
    found = predict(a_recipe("full", kl_coefficient=kl_coefficient), FACTS, rows, None, machine)
    assert found.memory.reference == copies * found.trained_parameters * 2
