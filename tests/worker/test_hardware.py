"""What the machine decides of a recipe."""

from typing import Any

import pytest

from api.recipe import Recipe, ResolvedRecipe, resolve
from api.techniques.prefix import Prefix
from worker import hardware
from worker.hardware import resolve_hardware

FACTS = {"hidden_size": 576, "layers": 30, "vocab_size": 49152, "parameters": 135_000_000}
HUGE = FACTS | {"hidden_size": 8192, "layers": 80, "parameters": 70_000_000_000}


def _recipe(*, max_length: int = 100, **training: Any) -> ResolvedRecipe:
    recipe = Recipe.model_validate({"model": "m", "training_file": "file-x", "training": training})
    return resolve(recipe, job_id="j", seed=1, max_length=max_length, train_rows=100, validation_rows=0)


@pytest.mark.parametrize(("instructions", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_a_processor_computes_in_bfloat16_only_if_it_can(
    instructions: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "cpu_multiplies_bfloat16", lambda: instructions)
    assert resolve_hardware(_recipe(), FACTS, gpu=False).precision == precision


def test_micro_batches_hold_at_least_one_example() -> None:
    assert resolve_hardware(_recipe(), FACTS, gpu=False).micro_batch_tokens == 2048
    assert resolve_hardware(_recipe(max_length=5000), FACTS, gpu=False).micro_batch_tokens == 5000


def test_activations_are_recomputed_only_where_they_would_not_fit() -> None:
    assert resolve_hardware(_recipe(), FACTS, gpu=False).gradient_checkpointing is False
    assert resolve_hardware(_recipe(), HUGE, gpu=False).gradient_checkpointing is True


def test_a_prefix_is_never_lost_to_recomputation() -> None:
    prefix = _recipe().model_copy(update={"technique": Prefix()})
    assert resolve_hardware(prefix, HUGE, gpu=False).gradient_checkpointing is False


def test_a_family_that_cannot_recompute_does_not() -> None:
    assert resolve_hardware(_recipe(), HUGE | {"recomputes": False}, gpu=False).gradient_checkpointing is False


def test_what_was_asked_for_or_settled_before_stays() -> None:
    asked = _recipe(precision="float32", micro_batch_tokens=64, gradient_checkpointing=True)
    assert resolve_hardware(asked, FACTS, gpu=False) == asked
    settled = resolve_hardware(_recipe(), FACTS, gpu=False)
    assert resolve_hardware(settled, HUGE, gpu=True) == settled
