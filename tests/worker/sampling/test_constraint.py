"""Answers held to a schema, by a random model that would answer anything else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.sampling.asking import CPU, Asked
from worker.sampling.bases import LoadedBase, ModelSource
from worker.sampling.refused import RequestRefused

COLORS = ("red", "green")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "color": {"enum": COLORS},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "word": {"type": "string", "maxLength": 4},
    },
    "required": ["color", "count", "word"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def base(llama: Path) -> LoadedBase:
    return LoadedBase(ModelSource(llama), CPU, torch.float32)


def held_to(schema: dict[str, Any], **fields: Any) -> dict[str, Any]:
    shape = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return {"response_format": shape, "prompts": [[3, 250, 17]], "max_tokens": 120, "temperature": 1} | fields


def test_every_answer_is_valid_though_the_model_writes_at_random(base: LoadedBase, llama: Path) -> None:
    asked = Asked(base, ModelSource(llama), **held_to(SCHEMA, n=8, seed=1, max_tokens=300))
    for index in range(8):
        said = json.loads(asked.text(index))
        assert said.keys() == SCHEMA["properties"].keys()
        assert said["color"] in COLORS
        assert 0 <= said["count"] <= 99
        assert len(said["word"]) <= 4
        assert asked.end(index)[0] == "stop"


def test_a_seed_gives_the_same_answer_and_log_probabilities_of_the_model_itself(base: LoadedBase, llama: Path) -> None:
    first, second = (Asked(base, ModelSource(llama), **held_to(SCHEMA, seed=7, top_logprobs=1)) for _ in range(2))
    assert first.text() == second.text()
    assert first.tokens()[0]["logprob"] < first.tokens()[0]["top"][0]["logprob"], "the likeliest is no brace"


def test_an_answer_that_is_cut_has_a_length(base: LoadedBase, llama: Path) -> None:
    asked = Asked(base, ModelSource(llama), **held_to(SCHEMA, max_tokens=5))
    assert asked.end() == ("length", 5)


def test_an_object_is_written_where_no_schema_is_given(base: LoadedBase, llama: Path) -> None:
    shape = {"response_format": {"type": "json_object"}}
    assert Asked(base, ModelSource(llama), **held_to({}, max_tokens=5) | shape).text().lstrip().startswith("{")


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "incompatible types"),
        ({"$ref": "#/$defs/missing"}, "does not exist"),
        ({"type": "string", "pattern": "("}, "regex parse error"),
        ({"type": "integer", "maximum": 10**40}, "1000000"),
        (
            {"allOf": [{"anyOf": [{"type": "string", "minLength": a * b} for a in range(12)]} for b in range(12)]},
            "too large",
        ),
    ],
)
def test_a_schema_without_valid_or_affordable_answers_is_refused(
    base: LoadedBase, llama: Path, schema: dict[str, Any], reason: str
) -> None:
    with pytest.raises(RequestRefused, match=reason) as refused:
        Asked(base, ModelSource(llama), **held_to(schema))
    assert (refused.value.param, refused.value.code) == ("response_format", "invalid_schema")


@pytest.mark.parametrize(
    ("schema", "path", "reason"),
    [
        ({"properties": {"a": {"type": "string", "pattern": "("}}}, "properties.a.pattern", "regex parse error"),
        ({"type": "array", "items": {"type": "string", "format": "color"}}, "items.format", "color"),
        ({"patternProperties": {"(": {}}}, "patternProperties.(", "regex parse error"),
    ],
)
def test_a_pattern_or_format_that_cannot_be_enforced_is_refused_with_its_path(
    base: LoadedBase, llama: Path, schema: dict[str, Any], path: str, reason: str
) -> None:
    with pytest.raises(RequestRefused, match=reason) as refused:
        Asked(base, ModelSource(llama), **held_to({"type": "object"} | schema))
    assert refused.value.message.startswith(f"response_format.json_schema.schema.{path}: ")
    assert (refused.value.param, refused.value.code) == ("response_format", "invalid_schema")
