"""Every format: recognised by its keys, parsed to what it means, refused with words that help."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.spec.formats import FORMATS, Conversation, Example, RowError, detect
from api.spec.methods import MethodBase

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


def chat(*messages: Any, **row: Any) -> Conversation:
    example = FORMATS["chat"].parse({"messages": list(messages), **row})
    assert isinstance(example, Conversation)
    return example


def call(arguments: Any = "{}", **changes: Any) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": function, **changes}]}


@pytest.mark.parametrize("name", FORMATS)
def test_example_of_a_format_is_recognised_and_valid(name: str) -> None:
    entry = FORMATS[name]
    assert detect(dict(entry.example), preferred=[name]) == name == entry.name
    assert isinstance(entry.parse(dict(entry.example)), Example)
    assert entry.summary
    assert entry.title


def test_methods_name_formats_that_exist() -> None:
    for method in MethodBase.__subclasses__():
        assert method.formats <= FORMATS.keys(), method


def test_a_job_of_a_method_prefers_its_own_formats() -> None:
    row = {"messages": [USER], "label": "x"}
    assert [detect(row, [name]) for name in ("chat", "labelled", "prompts")] == ["chat", "labelled", "prompts"]
    assert detect({"chosen": "a"}) is None


def test_a_row_of_another_format_is_refused_with_the_keys_that_it_lacks_and_has() -> None:
    with pytest.raises(RowError, match=r"it needs messages\. The row's keys are: mesages\."):
        FORMATS["chat"].read({"mesages": [USER, ANSWER]})


def test_weight_is_one_unless_a_message_says_zero() -> None:
    assert chat(USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": None}).weights == [0, 0, 0, 1]


def test_developer_speaks_as_system() -> None:
    assert chat({"role": "developer", "content": "Be brief"}, ANSWER).messages[0]["role"] == "system"


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    assert chat(USER, {"role": "assistant", "content": parts}).messages[1]["content"] == "Hello"


def test_arguments_of_a_call_become_an_object() -> None:
    message = chat(USER, call('{"city": "Paris"}')).messages[1]
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": {"city": "Paris"}}
    assert "content" not in message


def test_deprecated_functions_become_tools() -> None:
    answer = {"role": "function", "name": "f", "content": "1"}
    asked = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    example = chat(USER, asked, answer, ANSWER, functions=[{"name": "f"}])
    assert example.tools == [{"type": "function", "function": {"name": "f"}}]
    assert example.messages[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": {}}
    assert example.messages[2]["role"] == "tool"


def test_unknown_keys_are_noticed_not_refused() -> None:
    example = chat(USER, {**ANSWER, "wieght": 0}, source="x")
    assert [warning.code for warning in example.warnings] == ["unknown_key", "unknown_key"]
    assert "'wieght'" in example.warnings[1].message


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], "'messages' must be an array with at least one message"),
        ("hello", "'messages' must be an array with at least one message"),
        ([USER], "has no message from the assistant, so nothing in it can be trained on"),
        ([USER, {**ANSWER, "weight": 0}], "gives every assistant message weight 0, so nothing in it can be trained on"),
        ([USER, {"content": "x"}], "message 2 Discriminator 'role' is missing in value"),
        ([USER, "x"], "message 2 must be an object, not a string"),
        ([{"role": "robot", "content": "x"}], "message 1 role 'robot' is not one of"),
        ([{"role": ["user"], "content": "x"}], "message 1 role '['user']' is not one of"),
        ([USER, {"role": "assistant"}], "message 2 'content' is missing"),
        ([USER, {"role": "assistant", "content": None}], "message 2 'content' must be a string, not null"),
        ([{"role": "user", "content": 3}], "message 1 'content' must be a string, not a number"),
        ([{**USER, "weight": 1}, ANSWER], "message 1 only assistant messages can have a 'weight'"),
        ([USER, {**ANSWER, "weight": 0.5}], "message 2 'weight' must be 0 or 1"),
        ([USER, {**ANSWER, "weight": True}], "message 2 'weight' must be 0 or 1"),
        ([{"role": "tool", "content": "x"}, ANSWER], "message 1 must have a 'tool_call_id' (a string)"),
        ([{"role": "user", "content": [{"type": "image_url"}]}, ANSWER], "message 1 has a part of type 'image_url'"),
        (
            [USER, call(["Paris"])],
            "message 2 tool call 1: 'arguments' must be a JSON object, or a string of JSON, not an a",
        ),
        ([USER, call("{city}")], "message 2 tool call 1: 'arguments' is not JSON: {city}"),
        ([USER, call('{"a": "\\ud800"}')], "message 2 tool call 1: 'arguments' is not JSON"),
        ([USER, call("[1]")], "message 2 tool call 1: 'arguments' must hold a JSON object, not an array"),
        ([USER, call(id=3)], "message 2 tool call 1: 'id' must be a string, not a number"),
        ([USER, {"role": "assistant", "tool_calls": []}], "message 2 'content' is missing"),
        ([USER, {"role": "assistant", "tool_calls": {}}], "message 2 'tool_calls' must be an array, not an object"),
        ("[{'role': 'user'}]", "'messages' is in Python's notation, not JSON"),
        ('[{"role": "user"', "'messages' is not valid JSON"),
    ],
)
def test_invalid_conversation_is_told_by_message(messages: Any, expected: str) -> None:
    with pytest.raises(RowError) as caught:
        FORMATS["chat"].parse({"messages": messages})
    assert caught.value.message.startswith(expected)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"tools": {}}, "'tools' must be an array, not an object"),
        ({"tools": [{"type": "retrieval"}]}, "tools: entry 1 must be of the form"),
        ({"tools": "{"}, "'tools' is not valid JSON"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools: entry 1 has no 'name'"),
        ({"functions": [{"name": "f", "parameters": []}]}, "functions: entry 1: 'parameters' must be a JSON schema"),
        ({"parallel_tool_calls": "yes"}, "'parallel_tool_calls' must be a boolean"),
    ],
)
def test_invalid_tools_are_told(row: dict[str, Any], expected: str) -> None:
    with pytest.raises(RowError) as caught:
        chat(USER, ANSWER, **row)
    assert caught.value.message.startswith(expected)


def test_empty_text_has_nothing_to_learn_and_empty_completion_is_noticed() -> None:
    with pytest.raises(RowError, match="nothing in it can be trained on"):
        FORMATS["text"].parse({"text": ""})
    assert FORMATS["completion"].parse({"prompt": "a", "completion": ""}).warnings[0].code == "empty_answer"


def test_users_text_in_a_message_is_one_short_line() -> None:
    with pytest.raises(RowError) as caught:
        chat({"role": "\x1b[31m\n" + "x" * 500, "content": ""})
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 200


CHAT_KEYS = ["messages", "tools", "role", "content", "weight", "conversations", "from", "value"]
TEXT_KEYS = ["prompt", "completion", "text", "label", "chosen", "rejected", "margin", "instruction", "input", "output"]
keys = st.sampled_from(CHAT_KEYS + TEXT_KEYS)
scalars = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["user", "assistant", "tool"])
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | st.text(max_size=8), inner, max_size=4)
)


@given(st.dictionaries(keys, values, max_size=4))
def test_any_row_is_an_example_or_a_row_error(row: dict[str, Any]) -> None:
    name = detect(json.loads(json.dumps(row)))
    if name is None:
        return
    with suppress(RowError):
        assert isinstance(FORMATS[name].parse(row), Example)
