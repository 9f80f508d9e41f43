"""Requests with tools, by a random model: what must be called is called, with valid arguments."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_models import make_model
from tests.worker.sampling.asking import CPU, Asked
from tests.worker.templates import ALL
from worker.sampling.bases import LoadedBase, ModelSource
from worker.sampling.refused import RequestRefused

QUESTION = [{"role": "user", "content": "What is the weather?"}]
PARAMETERS = {
    "type": "object",
    "properties": {"unit": {"enum": ["C", "F"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["unit", "days"],
    "additionalProperties": False,
}


def function(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": PARAMETERS} | fields}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_model(tmp_path_factory.mktemp("bases") / "llama", "llama", seed=5)
    config = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 2000}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(ALL["qwen2_5"])
    return folder


@pytest.fixture(scope="module")
def base(llama: Path) -> LoadedBase:
    return LoadedBase(ModelSource(llama), CPU, torch.float32)


def asked(base: LoadedBase, llama: Path, **fields: Any) -> Asked:
    given = {"prompts": None, "messages": QUESTION, "tools": [function("now"), function("forecast")]}
    return Asked(base, ModelSource(llama), **given | {"temperature": 1, "seed": 2, "max_tokens": 200} | fields)


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"now", "forecast"}),
        ({"type": "function", "function": {"name": "forecast"}}, {"forecast"}),
    ],
)
def test_what_must_be_called_is_called_with_valid_arguments(
    base: LoadedBase, llama: Path, choice: object, names: set[str]
) -> None:
    answer = asked(base, llama, tool_choice=choice, parallel_tool_calls=False, top_logprobs=None)
    (call,) = answer.of("tool_call")
    assert call["name"] in names
    arguments = json.loads(call["arguments"])
    assert (arguments.keys(), 1 <= arguments["days"] <= 9) == ({"unit", "days"}, True)
    assert (answer.text(), answer.end()[0]) == ("", "tool_calls")


def test_arguments_are_an_object_though_their_schema_does_not_say_so(base: LoadedBase, llama: Path) -> None:
    vague = {name: value for name, value in PARAMETERS.items() if name != "type"}
    tools = [function("now", parameters=vague)]
    (call,) = asked(base, llama, tools=tools, tool_choice="required", parallel_tool_calls=False).of("tool_call")
    assert json.loads(call["arguments"]).keys() == {"unit", "days"}


def test_several_calls_are_numbered(base: LoadedBase, llama: Path) -> None:
    calls = asked(base, llama, tool_choice="required", max_tokens=600).of("tool_call")
    assert len(calls) > 1, "for the test's sake"
    assert [call["number"] for call in calls] == list(range(len(calls)))
    assert len({call["call_id"] for call in calls}) == len(calls)


def test_a_model_that_may_call_answers_in_its_own_words(base: LoadedBase, llama: Path) -> None:
    free = asked(base, llama, max_tokens=20)
    held = asked(base, llama, max_tokens=20, tools=[function("now", strict=True)])
    assert free.of("tool_call") == held.of("tool_call") == []
    assert free.text()
    assert held.text()


def test_tools_that_may_not_be_called_are_not_shown(base: LoadedBase, llama: Path) -> None:
    (shown, hidden) = (asked(base, llama, tool_choice=choice, max_tokens=1) for choice in ("auto", "none"))
    assert hidden.reports[0]["prompt_tokens"] < shown.reports[0]["prompt_tokens"]


def test_an_answer_without_calls_may_be_held_to_a_schema(base: LoadedBase, llama: Path) -> None:
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["yes", "no"]}}}
    answer = asked(base, llama, response_format=shape)
    assert answer.of("tool_call") or json.loads(answer.text()) in ("yes", "no")


def with_tags(llama: Path) -> LoadedBase:
    (llama / "chat_template.jinja").write_text(ALL["qwen3_6"])
    return LoadedBase(ModelSource(llama), CPU, torch.float32)


def test_arguments_with_tags_are_valid(llama: Path) -> None:
    (call,) = asked(with_tags(llama), llama, tool_choice="required", parallel_tool_calls=False).of("tool_call")
    arguments = json.loads(call["arguments"])
    assert (arguments.keys(), arguments["unit"] in ("C", "F")) == ({"unit", "days"}, True)
    assert 1 <= arguments["days"] <= 9


def test_a_schema_that_tags_cannot_be_held_to_is_refused(llama: Path) -> None:
    tools = [function("now", parameters=PARAMETERS | {"minProperties": 2})]
    with pytest.raises(RequestRefused, match="cannot be held to 'minProperties'"):
        asked(with_tags(llama), llama, tools=tools, tool_choice="required")


@pytest.mark.parametrize(
    ("template", "words"), [("zephyr", "has no place for tools"), ("glm4moe", "in a form that Attune cannot read")]
)
def test_other_templates_are_refused_in_words(base: LoadedBase, llama: Path, template: str, words: str) -> None:
    (llama / "chat_template.jinja").write_text(ALL[template])
    with pytest.raises(RequestRefused, match=words):
        asked(LoadedBase(ModelSource(llama), CPU, torch.float32), llama)
