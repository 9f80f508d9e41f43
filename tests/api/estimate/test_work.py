"""Operations and passes, by hand."""

import pytest

from api.estimate.work import Base, Workload, training_work
from api.spec.evaluation import ANSWER_TOKENS, COMPARED_TRAINING_ROWS, SHOWN_ROWS
from tests.api.estimate.test_memory import FACTS, a_recipe

ROWS = Workload(rows=1000, width=1, tokens=200_000, supervised=100_000, lengths=(200,))
BASE = Base.of(FACTS)


LONGEST_ANSWER = ANSWER_TOKENS[1]
"""Tokens of a sample's answer after a long training."""


def test_what_is_not_steps_is_the_comparison_of_base_and_tuned() -> None:
    recipe = a_recipe("lora").model_copy(update={"precision": "float32", "gradient_checkpointing": False})
    once, twice = (
        training_work(recipe.model_copy(update={"total_steps": steps}), BASE, 0, ROWS, None, 2048)
        for steps in (2000, 4000)
    )
    layers = BASE.layers
    read = COMPARED_TRAINING_ROWS * (2 * BASE.linear * 200 + 2 * BASE.head * 100 + 2 * layers * BASE.hidden * 200**2)
    drawn = SHOWN_ROWS * 2 * (BASE.linear + BASE.head) * (100 + LONGEST_ANSWER)
    assert 2 * once.flops - twice.flops == pytest.approx(2 * (read + drawn))
    assert 2 * once.passes - twice.passes == pytest.approx(2 * layers * (4 + LONGEST_ANSWER))


def test_dora_costs_something_for_every_weight_whenever_the_layers_are_gone_through() -> None:
    plain, dora = (
        training_work(
            a_recipe(name).model_copy(update={"precision": "float32", "gradient_checkpointing": False}),
            BASE, 0, ROWS, None, 2048,
        )
        for name in ("lora", "dora")
    )  # fmt: skip
    assert dora.passes == plain.passes
    assert dora.flops > plain.flops + 100 * BASE.linear * plain.passes / BASE.layers
