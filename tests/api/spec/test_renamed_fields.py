"""Names that fields had in earlier releases."""

from typing import Any

import pytest
from pydantic import ValidationError

from api.spec.recipe import Recipe
from api.spec.resolve import ResolvedRecipe, resolve

MINIMAL = {"model": "tiny", "training_file": "file-1"}
GRADER = {"type": "string_check", "name": "g", "operation": "eq", "input": "a", "reference": "b"}

RENAMED: list[tuple[dict[str, Any], str, str, Any]] = [
    ({"technique": {"type": "qlora"}}, "quantisation", "quantization", "fp4"),
    ({"technique": {"type": "qlora"}}, "double_quantisation", "double_quantization", False),
    ({"method": {"type": "dpo", "dpo": {}}}, "length_normalised", "length_normalized", True),
    ({"method": {"type": "ppo", "ppo": {"grader": GRADER}}}, "updates", "num_ppo_epochs", 7),
    ({"method": {"type": "ppo", "ppo": {"grader": GRADER}}}, "missing_end_penalty", "missing_eos_penalty", 0.5),
    ({"method": {"type": "reinforcement", "reinforcement": {"grader": GRADER}}}, "updates", "num_iterations", 7),
]
"""(part of a recipe, name of a field of its options before, and now, a value that is not the default)."""


def options_of(part: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    kind = "technique" if "technique" in part else "method"
    options: dict[str, Any] = recipe[kind] if kind == "technique" else recipe[kind][recipe[kind]["type"]]
    return options


def with_option(part: dict[str, Any], **given: Any) -> dict[str, Any]:
    if "technique" in part:
        return MINIMAL | {"technique": part["technique"] | given}
    kind = part["method"]["type"]
    return MINIMAL | {"method": {"type": kind, kind: part["method"][kind] | given}}


@pytest.mark.parametrize(("part", "old", "new", "value"), RENAMED)
def test_the_old_name_is_read_and_the_new_one_written(part: dict[str, Any], old: str, new: str, value: Any) -> None:
    written = Recipe.model_validate(with_option(part, **{old: value})).model_dump(mode="json")
    assert options_of(part, written)[new] == value
    assert old not in options_of(part, written)
    assert written == Recipe.model_validate(with_option(part, **{new: value})).model_dump(mode="json")


@pytest.mark.parametrize(("part", "old", "new", "value"), RENAMED)
def test_a_trainer_reads_a_resolved_recipe_with_either_name(
    part: dict[str, Any], old: str, new: str, value: Any
) -> None:
    recipe = Recipe.model_validate(with_option(part, **{new: value}))
    resolved = resolve(recipe, job_id="j", seed=0, max_length=64, train_rows=9, validation_rows=0)
    stored = resolved.model_dump(mode="json")
    options = options_of(part, stored)
    options[old] = options.pop(new)
    assert ResolvedRecipe.model_validate(stored) == resolved


@pytest.mark.parametrize(("part", "old", "new", "value"), RENAMED)
def test_both_names_at_once_are_refused(part: dict[str, Any], old: str, new: str, value: Any) -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        Recipe.model_validate(with_option(part, **{old: value, new: value}))


@pytest.mark.parametrize(("part", "old", "new", "value"), RENAMED)
def test_a_wrong_value_is_reported_under_the_name_that_was_sent(
    part: dict[str, Any], old: str, new: str, value: Any
) -> None:
    for name in (old, new):
        with pytest.raises(ValidationError) as refused:
            Recipe.model_validate(with_option(part, **{name: []}))
        assert refused.value.errors()[0]["loc"][-1] == name
