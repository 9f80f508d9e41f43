"""The key under which prepared rows are stored."""

from typing import Any

import pytest

from api.records import arrays
from api.records.base_models import BaseModelRow
from api.spec.recipe import Recipe


def key(training: dict[str, Any]) -> str:
    recipe = Recipe.model_validate({"model": "m", "training_file": "file-1", "training": training})
    return arrays.content_key("proj", ["hash"], recipe, BaseModelRow(facts={"kind": "causal_lm"}, artifacts=[]))


@pytest.mark.parametrize("training", [{"reasoning": "keep"}, {"reasoning": "last"}, {"format": "text"}])
def test_what_decides_the_arrays_is_in_their_key(training: dict[str, Any]) -> None:
    assert key(training) != key({})


def test_what_is_decided_later_is_not_in_their_key() -> None:
    assert key({"max_length": 512, "learning_rate": 1e-4}) == key({})
