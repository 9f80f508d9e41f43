"""What a machine decides of a recipe: the largest micro-batch that fits, and whether anything does."""

import itertools
import random
from typing import Any, cast, get_args

import pytest

from api.estimate.machine_fields import (
    COMFORTABLE_SHARE,
    LESS,
    Machine,
    Prediction,
    predict,
    refused_precision,
    resolve_hardware_auto,
    with_less_memory,
)
from api.estimate.work import Workload
from api.spec.base_model import BaseModelFacts
from api.spec.methods import _Methods
from api.spec.recipe import Recipe
from api.spec.resolve import Labels, ResolvedRecipe, resolve
from api.spec.target_modules import NoTargetModules
from api.spec.techniques import Technique

TECHNIQUES = [technique.model_fields["type"].default for technique in get_args(get_args(Technique)[0])]
METHODS = [method.model_fields["type"].default for method in get_args(_Methods)]
FACTS = cast(
    BaseModelFacts,
    {
        "kind": "causal_lm",
        "parameters": 135_000_000,
        "hidden_size": 576,
        "layers": 30,
        "vocab_size": 49152,
        "model_type": "llama",
        "heads": 9,
        "dtype": "bfloat16",
    },
)
ROWS = Workload(rows=1000, width=1, tokens=150_000, supervised=75_000, lengths=(50, 100, 150, 250, 400))
GRADER = {"type": "string_check", "name": "g", "operation": "eq", "input": "{{sample.output_text}}", "reference": "a"}
SETTINGS_OF_A_PAIR = 8
"""Of 36, other ones for each technique and method."""
OPTIONS: dict[str, dict[str, Any]] = {"ppo": {"reward_model": "ft:m"}, "reinforcement": {"grader": GRADER}}


def a_recipe(technique: str = "dora", method: str = "supervised", **training: Any) -> ResolvedRecipe:
    options = {"hyperparameters": {"batch_size": 32}, **OPTIONS.get(method, {})}
    body = {
        "model": "m",
        "training_file": "file-x",
        "technique": {"type": technique},
        "method": {"type": method, method: options},
        "training": training,
    }
    labels = Labels(problem="single_label", names=("a", "b")) if method == "classification" else None
    return resolve(
        Recipe.model_validate(body),
        job_id="j",
        seed=1,
        max_length=400,
        train_rows=1000,
        validation_rows=0,
        labels=labels,
    )


def on(memory_gib: float, recipe: ResolvedRecipe, rows: Workload = ROWS, *, gpu: bool = False) -> Prediction:
    return predict(recipe, FACTS, rows, None, Machine(gpu, True, int(memory_gib * 2**30)))


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("method", METHODS)
def test_what_fits_is_predicted_to_take_no_more_than_there_is(technique: str, method: str) -> None:
    rng = random.Random(f"{technique} {method}")
    settings = [
        *itertools.product(("auto", "float32", "bfloat16"), ("auto", True, False), ("auto", 500), (False, True))
    ]
    for precision, recompute, tokens, gpu in rng.sample(settings, SETTINGS_OF_A_PAIR):
        asked = {"precision": precision, "gradient_checkpointing": recompute, "micro_batch_tokens": tokens}
        rows = Workload(1000, rng.choice([1, 2]), 150_000, 75_000, (50, 150, rng.randint(151, 400)))
        machine = Machine(gpu, rng.random() < 0.5, int(rng.uniform(0.3, 12) * 2**30))
        recipe = a_recipe(technique, method, **asked)
        try:
            found = predict(recipe, FACTS, rows, None, machine)
        except NoTargetModules:
            continue
        assert machine.memory_bytes is not None
        assert found.fits == (found.memory.total <= machine.memory_bytes)
        settled = resolve_hardware_auto(recipe, FACTS, machine, rows)
        assert settled.micro_batch_tokens == found.micro_batch_tokens, "estimate and trainer decide alike"
        assert settled.gradient_checkpointing == found.gradient_checkpointing
        again = predict(settled, FACTS, rows, None, machine)
        assert (again.fits, again.memory) == (found.fits, found.memory), "the job runs as it was judged"


def test_less_memory_means_smaller_micro_batches_then_recomputation_then_no() -> None:
    seen = [on(memory / 16, a_recipe()) for memory in range(16 * 12, 8, -3)]
    kinds = [(each.gradient_checkpointing, each.fits) for each in seen]
    assert [kind for kind, _ in itertools.groupby(kinds)] == [(False, True), (True, True), (True, False)]
    for recompute in (False, True):
        sizes = [each.micro_batch_tokens for each in seen if each.gradient_checkpointing is recompute]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] == 2048, "as large as usual where there is room"
    assert seen[-1].micro_batch_tokens == 400, "a row is never divided"


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_the_largest_that_fits_is_chosen(technique: str, gpu: bool) -> None:
    machine = Machine(gpu, True, None)
    recompute: dict[str, Any] = {"gradient_checkpointing": False}
    usual, least = (
        predict(a_recipe(technique, micro_batch_tokens=tokens, **recompute), FACTS, ROWS, None, machine).memory.total
        for tokens in (16384 if gpu else 2048, 8)
    )
    memory = (usual + least) / 2 / COMFORTABLE_SHARE
    chosen = on(memory / 2**30, a_recipe(technique, **recompute), gpu=gpu)
    more = a_recipe(technique, micro_batch_tokens=chosen.micro_batch_tokens + 1, **recompute)
    assert chosen.memory.total <= COMFORTABLE_SHARE * memory < on(1, more, gpu=gpu).memory.total


def test_dora_on_a_small_model_with_little_memory_is_run_as_it_was_judged() -> None:
    """It was admitted at an eighth of the micro-batch that it then ran with, and its kernel killed it."""
    found = on(1.75, a_recipe("dora", precision="float32"))
    assert found.fits == (found.memory.total <= 1.75 * 2**30)
    assert on(1.75, a_recipe("dora", precision="float32", micro_batch_tokens=2048)).fits is False


def test_what_was_asked_for_is_kept_and_refused_where_it_does_not_fit() -> None:
    asked = a_recipe(micro_batch_tokens=4096, gradient_checkpointing=False)
    found = on(2, asked, Workload(1000, 1, 150_000, 75_000, (400,)))
    assert (found.micro_batch_tokens, found.gradient_checkpointing, found.fits) == (4096, False, False)


def test_the_rows_decide_and_not_the_longest_that_could_be() -> None:
    short = Workload(1000, 1, 10_000, 5_000, (10,))
    assert on(2.5, a_recipe(), short).gradient_checkpointing is False
    settled = resolve_hardware_auto(a_recipe(), FACTS, Machine(False, True, int(2.5 * 2**30)))
    assert settled.gradient_checkpointing is True, "unknown rows are as long as they may be"


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_each_attempt_after_one_that_ran_out_takes_less(technique: str, gpu: bool) -> None:
    machine = Machine(gpu, True, None)
    recipe = resolve_hardware_auto(a_recipe(technique), FACTS, machine, ROWS)
    needs = [predict(recipe, FACTS, ROWS, None, machine).memory.training]
    while less := with_less_memory(recipe, FACTS, machine, ROWS, recomputes=recipe.technique.recomputes):
        needs.append(predict(less, FACTS, ROWS, None, machine).memory.training)
        recipe = less
    assert len(needs) > 1
    assert all(after < before for before, after in itertools.pairwise(needs))
    assert all(after <= LESS * before for before, after in itertools.pairwise(needs[:-1]))
    least = recipe.model_copy(update={"micro_batch_tokens": 8})
    assert needs[-1] == predict(least, FACTS, ROWS, None, machine).memory.training
    assert recipe.gradient_checkpointing == recipe.technique.recomputes


def test_an_attempt_never_recomputes_where_that_was_refused() -> None:
    machine = Machine(False, True, None)
    recipe: ResolvedRecipe | None = resolve_hardware_auto(a_recipe(), FACTS, machine, ROWS)
    while recipe is not None:
        assert not recipe.gradient_checkpointing
        recipe = with_less_memory(recipe, FACTS, machine, ROWS, recomputes=False)


@pytest.mark.parametrize(
    ("gpu", "bfloat16", "precision"),
    [(True, True, "bfloat16"), (True, False, "float32"), (False, True, "bfloat16"), (False, False, "float32")],
)
def test_a_machine_computes_in_bfloat16_only_where_it_can(gpu: bool, bfloat16: bool, precision: str) -> None:
    assert resolve_hardware_auto(a_recipe(), FACTS, Machine(gpu, bfloat16, None)).precision == precision


def test_an_old_gpu_refuses_bfloat16_and_a_processor_emulates_it() -> None:
    assert "compute capability 8.0" in (refused_precision("bfloat16", Machine(True, False, None)) or "")
    for machine in (Machine(True, True, None), Machine(False, False, None)):
        assert refused_precision("bfloat16", machine) is None
    assert refused_precision("float32", Machine(True, False, None)) is None
