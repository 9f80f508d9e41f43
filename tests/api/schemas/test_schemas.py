"""What goes out of a job."""

import pytest

from api.records.jobs import Job
from api.schemas.completions import CompletionLogprobs
from api.schemas.jobs import shown_method
from api.spec.recipe import Recipe
from api.spec.resolve import resolve
from api.spec.sampler_reports import SampledToken, TopToken

GRADER = {"type": "string_check", "name": "right", "input": "a", "reference": "a", "operation": "eq"}


def shown(method: dict[str, object], **body: object) -> dict[str, object]:
    """The hyperparameters of a job of that method whose rows are prepared."""
    named = {"model": "tiny", "training_file": "f", "validation_file": "g", "method": method}
    recipe = Recipe.model_validate(named | body)
    resolved = resolve(recipe, job_id="j", seed=0, max_length=64, train_rows=100, validation_rows=10)
    job = Job(recipe=recipe.model_dump(mode="json"), resolved=resolved.model_dump(mode="json"))
    found: dict[str, object] = shown_method(job)[str(method["type"])]["hyperparameters"]
    return found


@pytest.mark.parametrize(("asked", "beta"), [("auto", 0.1), (0.3, 0.3)])
def test_a_prepared_dpo_job_shows_its_beta(asked: object, beta: float) -> None:
    assert shown({"type": "dpo", "dpo": {"hyperparameters": {"beta": asked}}})["beta"] == beta


def test_a_prepared_reinforcement_job_shows_all_that_was_automatic() -> None:
    found = shown({"type": "reinforcement", "reinforcement": {"grader": GRADER}})
    assert "auto" not in found.values()
    assert (found["eval_samples"], found["compute_multiplier"], found["eval_interval"]) == (1, 1.0, 15)


@pytest.mark.parametrize(
    ("method", "technique", "multiplier"), [("supervised", "lora", 5e12), ("dpo", "lora", 2e13), ("dpo", "full", 1e15)]
)
def test_a_learning_rate_of_its_own_shows_as_multiplier_of_the_usual_one(
    method: str, technique: str, multiplier: float
) -> None:
    own = {"training": {"learning_rate": 1e9}, "technique": {"type": technique}}
    assert shown({"type": method}, **own)["learning_rate_multiplier"] == pytest.approx(multiplier)
    assert shown({"type": method})["learning_rate_multiplier"] == 1.0


def test_of_halves_of_characters_with_the_same_text_the_likeliest_counts() -> None:
    half = "\N{REPLACEMENT CHARACTER}"
    top = [TopToken(token=half, bytes=[number], logprob=-float(number)) for number in (0xC3, 0xE2)]
    token = SampledToken(token=half, bytes=[0xE2], logprob=-226.0, top=top, offset=0)
    found = CompletionLogprobs.of([token])
    assert found is not None
    assert found.top_logprobs == [{half: -195.0}]
