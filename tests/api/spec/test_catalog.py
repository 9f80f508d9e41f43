from typing import cast

import pytest

from api.spec.base_model import BaseModelFacts
from api.spec.catalog import METHODS, TECHNIQUES, combinations, refusal
from api.spec.recipe import Recipe

LLAMA = cast(BaseModelFacts, {"kind": "causal_lm", "model_type": "llama", "classifies": True})
BERT = cast(BaseModelFacts, {"kind": "encoder", "model_type": "bert", "classifies": True})


def refused(facts: BaseModelFacts, technique: str, method: str):
    options = {"grader": {"type": "string_check", "name": "g", "input": "a", "reference": "b", "operation": "eq"}}
    body = {"type": method} | ({method: options} if METHODS[method].rollouts else {})
    recipe = Recipe.model_validate(
        {"model": "m", "training_file": "f", "technique": {"type": technique}, "method": body}
    )
    return refusal(recipe.technique, recipe.method, facts)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("facts", [LLAMA, BERT], ids=["causal_lm", "encoder"])
def test_what_is_refused_is_what_the_catalogue_says(facts: BaseModelFacts, technique: str, method: str) -> None:
    told = {(each.technique, each.method, each.kind): each for each in combinations()}[technique, method, facts["kind"]]
    found = refused(facts, technique, method)
    assert (found.message if found else None) == told.reason


def test_a_language_model_takes_every_technique_with_every_method() -> None:
    assert [each for each in combinations() if each.kind == "causal_lm" and each.reason] == []


def test_a_family_in_which_a_technique_has_no_place_is_told_others() -> None:
    found = refused(LLAMA | {"model_type": "falcon_h1"}, "bottleneck", "dpo")
    assert found is not None
    assert (found.param, "lora" in found.message) == ("technique.type", True)


def test_an_encoder_is_told_what_it_can_learn() -> None:
    found = refused(BERT, "lora", "dpo")
    assert found is not None
    assert (found.param, "use classification" in found.message) == ("method.type", True)


@pytest.mark.parametrize("method", ["classification", "reward"])
def test_a_family_without_a_head_for_labels_is_told_to_use_another(method: str) -> None:
    found = refused(LLAMA | {"classifies": False, "model_type": "falcon_h1"}, "lora", method)
    assert found is not None
    assert "for the family falcon_h1: use dpo" in found.message


def test_a_technique_that_does_not_fit_a_family_names_those_that_do() -> None:
    found = refused(BERT | {"model_type": "modernbert"}, "prefix", "classification")
    assert found is not None
    assert found.param == "technique.type"
    legal = found.message.partition(": use ")[2]
    assert "lora" in legal
    assert "prefix" not in legal


def test_a_base_model_from_before_there_were_encoders_is_a_language_model() -> None:
    assert refused(cast(BaseModelFacts, {"model_type": "llama"}), "lora", "dpo") is None
