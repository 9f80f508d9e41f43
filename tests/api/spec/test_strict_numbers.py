"""Numbers and booleans of requests are those of JSON: a text or a boolean is no number."""

from typing import Any

import pytest
from pydantic import ValidationError

from api.schemas.completion_requests import ChatBody
from api.spec.recipe import Recipe

JOB = {"model": "tiny", "training_file": "file-1"}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "a"}]}


def with_epochs(value: object) -> dict[str, Any]:
    return {**JOB, "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": value}}}}


@pytest.mark.parametrize("value", [True, False, "3"])
def test_a_boolean_or_a_text_is_no_number(value: object) -> None:
    for model, body in (
        (Recipe, with_epochs(value)),
        (Recipe, {**JOB, "seed": value}),
        (Recipe, {**JOB, "training": {"learning_rate": value}}),
        (ChatBody, {**CHAT, "n": value}),
        (ChatBody, {**CHAT, "temperature": value}),
    ):
        with pytest.raises(ValidationError, match="should be a number") as caught:
            model.model_validate(body)
        assert len(caught.value.errors()) == 1


@pytest.mark.parametrize("value", [1, 0, "true", "yes"])
def test_a_number_or_a_text_is_no_boolean(value: object) -> None:
    with pytest.raises(ValidationError, match="should be true or false"):
        ChatBody.model_validate({**CHAT, "stream": value})


@pytest.mark.parametrize("value", [3, 3.0, "auto", None])
def test_numbers_are_accepted_as_json_writes_them(value: object) -> None:
    Recipe.model_validate(with_epochs(value))
