from typing import Any

import pytest
from pydantic import ValidationError

from api.http.error_handlers import as_invalid_request
from api.http.suggestions import suggestion, unknown_field
from api.spec.catalog import METHODS
from api.spec.recipe import Recipe
from api.spec.resolve import ResolvedRecipe, resolve

MINIMAL = {"model": "tiny", "training_file": "file-1"}


def resolved(body: dict[str, Any], rows: int, validation_rows: int = 0) -> ResolvedRecipe:
    recipe = Recipe.model_validate(MINIMAL | body)
    return resolve(recipe, job_id="j", seed=0, max_length=64, train_rows=rows, validation_rows=validation_rows)


@pytest.mark.parametrize(("rows", "epochs"), [(10, 10), (4, 25), (20, 5), (34, 3), (1000, 3), (10_000, 2), (30_000, 1)])
def test_epochs_follow_openais_rule(rows: int, epochs: int) -> None:
    assert resolved({}, rows).n_epochs == epochs


@pytest.mark.parametrize("rows", [10, 100, 1000, 5000, 100_000])
def test_the_automatic_batch_leaves_about_a_hundred_steps_or_is_at_its_cap(rows: int) -> None:
    plan = resolved({}, rows)
    assert plan.batch_size <= 64
    assert plan.batch_size in (1, 64) or 90 <= plan.total_steps <= 210


def test_nothing_is_left_automatic_but_what_the_machine_and_its_clock_decide() -> None:
    plan = resolved({}, 100, validation_rows=10).model_dump()
    automatic = {name for name, value in plan.items() if value == "auto"}
    assert automatic == {"precision", "gradient_checkpointing", "micro_batch_tokens", "save_every"}


def test_the_multiplier_scales_the_techniques_default() -> None:
    lora = {"hyperparameters": {"learning_rate_multiplier": 2}}
    assert resolved(lora, 100).learning_rate == pytest.approx(4e-4)
    assert resolved(lora | {"technique": {"type": "full"}}, 100).learning_rate == pytest.approx(4e-5)


PAPERS = {"dpo": (5e-7, 1e-6), "kto": (5e-7, 1e-6), "simpo": (3e-7, 1e-6), "orpo": (1e-6, 8e-6)}
"""Peak learning rates of full fine-tuning in the papers and in TRL, lowest and highest."""


@pytest.mark.parametrize("method", [name for name, each in METHODS.items() if "preference" in each.formats])
def test_full_fine_tuning_by_preferences_learns_at_the_papers_rates(method: str) -> None:
    full: dict[str, Any] = {"method": {"type": method}, "technique": {"type": "full"}}
    lowest, highest = PAPERS.get(method, (9e-6, 1e-5))  # reward models: Ouyang et al. 2022, appendix C.2
    assert lowest <= resolved(full, 1000).learning_rate <= highest
    doubled = {"method": {"type": method, method: {"hyperparameters": {"learning_rate_multiplier": 2}}}}
    assert resolved(full | doubled, 1000).learning_rate == pytest.approx(2 * resolved(full, 1000).learning_rate)
    assert resolved({"method": {"type": method}}, 1000).learning_rate >= 5e-5  # adapters learn at higher ones


@pytest.mark.parametrize(("rows", "batch"), [(10, 10), (12, 12), (100, 16), (1000, 16), (5000, 64)])
def test_ktos_automatic_batch_holds_enough_rows_to_estimate_a_divergence(rows: int, batch: int) -> None:
    assert resolved({"method": {"type": "kto"}}, rows).batch_size == batch


@pytest.mark.parametrize("validation", [{"validation_file": "file-2"}, {"training": {"validation_split": 0.1}}])
def test_one_field_publishes_the_last_step_instead_of_the_best(validation: dict[str, Any]) -> None:
    last = validation | {"training": {**validation.get("training", {}), "keep_best": False}}
    assert resolved(validation, 100, validation_rows=9).keep_best is True
    assert resolved(last, 100, validation_rows=9).keep_best is False


def test_max_steps_ends_training_early_and_never_prolongs_it() -> None:
    assert resolved({"training": {"max_steps": 7}}, 1000).total_steps == 7
    assert resolved({"training": {"max_steps": 10**6}}, 100) == resolved({}, 100)


def test_evaluation_is_only_planned_where_there_is_something_to_evaluate_on() -> None:
    without, with_rows = resolved({}, 100), resolved({"validation_file": "file-2"}, 100, validation_rows=9)
    assert (without.eval_every, without.keep_best) == (None, False)
    assert (with_rows.eval_every, with_rows.keep_best) == (with_rows.total_steps // 10, True)


@pytest.mark.parametrize(
    "body",
    [
        {"hyperparameters": {}, "method": None, "technique": {"type": "lora", "alpha": 3}},
        {
            "hyperparameters": None,
            "technique": None,
            "suffix": None,
            "metadata": None,
            "integrations": None,
            "seed": None,
        },
        {"method": {"type": "supervised"}, "training": None, "resources": None},
        {"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": None}}}},
    ],
)
def test_empty_objects_and_explicit_nulls_mean_the_defaults(body: dict[str, object]) -> None:
    assert Recipe.model_validate(MINIMAL | body).method.options.hyperparameters.n_epochs == "auto"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 0}}}},
         "method.supervised.hyperparameters.n_epochs"),
        ({"hyperparameters": {"batch_size": 257}}, "hyperparameters.batch_size"),
        ({"technique": {"type": "lora", "rank": "many"}}, "technique.rank"),
        ({"technique": {"type": "lora", "rank_pattern": {"x" * 513: 2}}}, "technique.rank_pattern"),
        ({"technique": {"type": "unheard-of"}}, "technique"),
        ({"training": {"learning_rate": float("inf")}}, "training.learning_rate"),
        ({"training": {"learning_rate": 0}}, "training.learning_rate"),
        ({"training": {"lerning_rate": 1e-4}}, "training.lerning_rate"),
        ({"integrations": [{"type": "wandb", "wandb": {}}]}, "integrations.0.wandb.project"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "a/b"}}]}, "integrations.0.wandb.project"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}] * 6}, "integrations"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"suffix": ""}, "suffix"),
        ({"project_id": "proj_other"}, "project_id"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_its_place_in_the_body(body: dict[str, object], param: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(MINIMAL | body)
    errors = [error | {"loc": ("body", *error["loc"])} for error in caught.value.errors()]
    told = as_invalid_request(errors, MINIMAL | body)
    assert told.param is not None
    assert told.param.startswith(param)


@pytest.mark.parametrize(
    "body",
    [
        {"training": {"learning_rate": 1e-4}, "hyperparameters": {"learning_rate_multiplier": 2}},
        {"training": {"early_stopping": {}}},
        {"training": {"keep_best": True}},
        {"training": {"validation_split": 0.1}, "validation_file": "file-2"},
        {
            "hyperparameters": {"n_epochs": 1},
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
        },
        {"training": {"reasoning": "keep"}, "method": {"type": "classification"}},
        {"training": {"reasoning": "drop"}, "method": {"type": "ppo", "ppo": {"reward_model": "rm"}}},
    ],
)
def test_fields_that_contradict_each_other_are_refused(body: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate(MINIMAL | body)


@pytest.mark.parametrize("options", [None, {}, {"hyperparameters": {"n_epochs": "auto", "batch_size": 4}}])
@pytest.mark.parametrize("kind", ["supervised", "dpo"])
def test_the_deprecated_hyperparameters_beside_a_method_are_the_methods(
    kind: str, options: dict[str, object] | None
) -> None:
    body = {"hyperparameters": {"n_epochs": 3, "batch_size": "auto"}, "method": {"type": kind, kind: options}}
    recipe = Recipe.model_validate(MINIMAL | body)
    hyperparameters = recipe.method.options.hyperparameters
    assert (recipe.method.type, hyperparameters.n_epochs) == (kind, 3)
    assert hyperparameters.batch_size == (4 if options else "auto")


def test_any_finite_learning_rate_is_accepted() -> None:
    assert resolved({"training": {"learning_rate": 1e9}}, 100).learning_rate == 1e9


@pytest.mark.parametrize("body", [{}, {"hyperparameters": {"n_epochs": 2}}, {"hyperparameters": {}, "method": None}])
def test_a_stored_recipe_is_read_back_as_it_was(body: dict[str, object]) -> None:
    recipe = Recipe.model_validate(MINIMAL | body)
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_a_nul_character_is_refused_wherever_it_stands() -> None:
    with pytest.raises(ValidationError, match="NUL"):
        Recipe.model_validate(MINIMAL | {"metadata": {"a": "b\0"}})
    with pytest.raises(ValidationError, match="NUL"):
        Recipe.model_validate(MINIMAL | {"metadata": {"a\0": "b"}})


def test_what_only_spells_a_nul_is_text() -> None:
    assert Recipe.model_validate(MINIMAL | {"metadata": {"a": "\\u0000"}}).metadata == {"a": "\\u0000"}


GRADER = {"type": "string_check", "name": "right", "input": "a", "reference": "a", "operation": "eq"}


def reinforcement(**hyperparameters: object) -> dict[str, object]:
    options = {"grader": GRADER, "hyperparameters": hyperparameters}
    return {"method": {"type": "reinforcement", "reinforcement": options}}


def test_openais_eval_interval_decides_when_is_evaluated() -> None:
    body = reinforcement(eval_interval=3) | {"validation_file": "file-2"}
    assert resolved(body, 1000, validation_rows=10).eval_every == 3


@pytest.mark.parametrize("training", [{}, {"eval_every": 2, "validation_split": 0.1}])
def test_an_eval_interval_that_could_not_be_kept_is_refused(training: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="eval_interval"):
        Recipe.model_validate(MINIMAL | reinforcement(eval_interval=3) | {"training": training})


def test_a_method_may_come_with_nulls_for_the_others() -> None:
    """As OpenAI's client gives it back, whose method object has a field for each."""
    given = {"hyperparameters": {"beta": 0.2, "n_epochs": None}}
    method = {"type": "dpo", "supervised": None, "dpo": given, "reinforcement": None}
    recipe = Recipe.model_validate(MINIMAL | {"method": method})
    options: Any = recipe.method.options
    assert (recipe.method.type, options.hyperparameters.beta) == ("dpo", 0.2)
    with pytest.raises(ValidationError, match="supervised"):
        Recipe.model_validate(MINIMAL | {"method": method | {"supervised": {}}})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"technique": {"rank": 2}}, "technique.type: Field required: it selects the kind of object"),
        ({"resources": {"gpus": -1}, "suffix": ""}, "(also wrong: resources.gpus)"),
    ],
)
def test_a_refusal_says_what_is_missing_and_what_else_is_wrong(body: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Recipe.model_validate(MINIMAL | body)
    errors = [error | {"loc": ("body", *error["loc"])} for error in refused.value.errors()]
    assert message in as_invalid_request(errors, MINIMAL | body).message


@pytest.mark.parametrize(("asked", "method", "settled"), [
    ("truncate", "reward", "drop"), ("error", "reward", "error"), ("truncate", "dpo", "truncate"),
])  # fmt: skip
def test_the_pairs_of_a_reward_model_are_left_out_rather_than_cut(asked: str, method: str, settled: str) -> None:
    """The reward of an answer is read at its end."""
    found = resolved({"method": {"type": method}, "training": {"overlong": asked}}, rows=20)
    assert found.overlong == settled


@pytest.mark.parametrize(
    ("body", "param", "meant"),
    [
        ({"beta": 0.1, "method": {"type": "dpo"}}, "beta", "method.dpo.hyperparameters.beta"),
        ({"beta": 0.1}, "beta", "method.dpo.hyperparameters.beta"),
        ({"beta": 0.1, "method": {"type": "supervised"}}, "beta", None),
        ({"method": {"type": "dpo", "dpo": {"beta": 0.1}}}, "method.dpo.beta", "method.dpo.hyperparameters.beta"),
        ({"method": {"type": "dpo", "supervised": {}}}, "method.supervised", "method.dpo"),
        ({"hyperparameters": {"epochs": 2}}, "hyperparameters.epochs", "hyperparameters.n_epochs"),
        ({"n_epochs": 2}, "n_epochs", "hyperparameters.n_epochs"),
        ({"n_epochs": 2, "method": {"type": "kto"}}, "n_epochs", "method.kto.hyperparameters.n_epochs"),
        ({"training": {"lerning_rate": 1e-4}}, "training.lerning_rate", "training.learning_rate"),
        ({"learning_rate": 1e-4}, "learning_rate", "training.learning_rate"),
        ({"lora": {"rank": 8}}, "lora", None),
        ({"technique": {"type": "full", "rank": 8}}, "technique.rank", None),
        ({"rank": 8}, "rank", "technique.rank"),
        ({"project_id": "proj_other"}, "project_id", None),
    ],
)  # fmt: skip
def test_an_unknown_field_comes_with_the_one_that_was_meant(
    body: dict[str, object], param: str, meant: str | None
) -> None:
    assert suggestion(Recipe, param, MINIMAL | body) == meant


def test_a_field_of_another_type_is_told_from_a_misspelt_one() -> None:
    of_full = unknown_field(Recipe, "technique.rank", MINIMAL | {"technique": {"type": "full", "rank": 8}})
    assert of_full == "Unknown field: `technique` of type 'full' has no such field"
    assert unknown_field(Recipe, "x", MINIMAL | {"x": 1}) == "Unknown field: it is misspelt or not supported"


@pytest.mark.parametrize(
    ("body", "merged"),
    [
        ({}, False),
        ({"technique": {"type": "qlora"}}, False),
        ({"technique": {"type": "dora"}}, True),
        ({"technique": {"type": "lora", "rank_pattern": {"q_proj": 4}}}, True),
        ({"method": {"type": "classification"}}, True),
        ({"method": {"type": "classification"}, "technique": {"type": "full"}}, False),
        ({"technique": {"type": "prefix"}}, False),
        ({"export": {"merged": True}}, True),
        ({"technique": {"type": "dora"}, "export": {"merged": False}}, False),
    ],
)
def test_merged_weights_are_published_where_vllm_cannot_serve_the_adapter(body: dict[str, Any], merged: bool) -> None:
    recipe = Recipe.model_validate({"model": "m", "training_file": "file-x", **body})
    assert recipe.publishes_merged(1000, 1000) is merged
    asked = recipe.export.merged is True
    assert recipe.publishes_merged(1001, 1000) is asked
