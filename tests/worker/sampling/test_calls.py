"""Calls of functions: the forms of published templates, and their reading from answers in pieces of any size."""

import json
from typing import Any

import pytest

from api.spec.tools import Tool
from tests.worker.templates import ALL
from worker.rows.chat_template import ChatTemplate
from worker.sampling.call_form import CallForm, knows_tools
from worker.sampling.calls import CallReader

NO_CALL = '<tool_call>\n{"name": "f", "arguments": {"a": %s}}\n</tool_call>'
ENDS = ("<|im_end|>", "</s>", "<|eot_id|>")


def form_of(name: str) -> CallForm:
    form = CallForm.learn(ChatTemplate({"default": ALL[name]}, {"bos_token": "<s>", "eos_token": "</s>"}), ENDS)
    assert form is not None, name
    return form


def read(form: CallForm, text: str, size: int = 1, **options: Any) -> tuple[str, list[tuple[str, Any]], bool]:
    reader = CallReader(form, options.pop("tools", ()), **{"only_one": False} | options)
    plain, calls = "", []
    for start in range(0, len(text), size):
        more, found = reader.add(text[start : start + size])
        plain += more
        calls += [(call.name, json.loads(call.arguments)) for call in found]
    return plain + reader.finish(), calls, reader.complete


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "mistral_v03", "llama3_1", "tools"])
def test_the_calls_that_a_template_writes_are_read_again(name: str) -> None:
    form = form_of(name)
    one = f"{form.head}find{form.middle}" + '{"key": "}<é{"}' + form.tail
    several = one if form.between is None else one + form.between + one
    text = "Yes. " + form.opening + several + form.end
    for size in (1, 3, len(text)):
        plain, calls, _ = read(form, text, size)
        assert plain.strip() == "Yes."
        assert calls == [("find", {"key": "}<é{"})] * (1 if form.between is None else 2)


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("Use <tool_call> tags.", "Use <tool_call> tags."),
        ("1 < 2 <tool", "1 < 2 <tool"),
        ('<tool_call>\n{"nam', '<tool_call>\n{"nam'),
        ('<tool_call>\n{"name": 3}\n</tool_call>', '<tool_call>\n{"name": 3}\n</tool_call>'),
        ("<tool_call>[1, 2", "<tool_call>[1, 2"),
        *((text, text) for text in (NO_CALL % "1e999", NO_CALL % r'"\ud800"', NO_CALL % ("1" * 5000))),
    ],
)
def test_what_is_no_call_stays_text(written: str, plain: str) -> None:
    assert read(form_of("qwen2_5"), written)[:2] == (plain, [])


FIND = Tool.model_validate(
    {
        "type": "function",
        "function": {
            "name": "find",
            "parameters": {
                "type": "object",
                "properties": {
                    "text": {"type": "string"},
                    "count": {"type": "integer"},
                    "unit": {"enum": ["1", "2"]},
                    "note": {"type": ["string", "null"]},
                    "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
                    "nick": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
                    "limit": {"anyOf": [{"type": "string", "minLength": 1}, {"type": "integer"}]},
                    "where": {"type": "object"},
                },
            },
        },
    }
)
TAGS = """<function=find>
<parameter=text>
12 </function>

é
</parameter>
<parameter=count>
12
</parameter>
<parameter=unit>
1
</parameter>
<parameter=note>
null
</parameter>
<parameter=zip>
90210
</parameter>
<parameter=nick>
true
</parameter>
<parameter=limit>
7
</parameter>
<parameter=where>
{"a": [1]}
</parameter>
<parameter=unknown>
true or false
</parameter>
</function>"""


@pytest.mark.parametrize("name", ["qwen3_6", "qwen3_8", "nemotron_3_nano"])
def test_calls_with_a_tag_for_each_parameter_are_read_by_the_functions_schema(name: str) -> None:
    form = form_of(name)
    arguments = {"text": "12 </function>\n\né", "count": 12, "unit": "1", "note": None, "where": {"a": [1]}}
    arguments |= {"zip": "90210", "nick": "true", "limit": 7, "unknown": "true or false"}
    expected = [("find", arguments), ("now", {})]
    calls = f"{TAGS}{form.between}<function=now>\n</function>"
    text = f"Yes.\n\n{form.opening}{calls}{form.end}"
    for size in (1, 5, len(text)):
        assert read(form, text, size, tools=[FIND])[:2] == ("Yes.", expected)


@pytest.mark.parametrize(
    "written",
    ["<tool_call>\n<function=f", "<tool_call>\n<function=f>\n<parameter=a>\nx", "<tool_call>\n<function=f>\nx"],
)
def test_tags_without_a_whole_call_stay_text(written: str) -> None:
    assert read(form_of("qwen3_6"), written)[:2] == (written, [])


def test_calls_may_differ_in_white_space_and_be_followed_by_text() -> None:
    text = 'A<tool_call>{"arguments":{},"name":"f"}</tool_call>\nB'
    assert read(form_of("qwen2_5"), text)[:2] == ("AB", [("f", {})])


def test_a_later_call_that_is_not_complete_is_dropped() -> None:
    text = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n<tool_call>\n{"name": "g", "argu'
    assert read(form_of("qwen2_5"), text)[:2] == ("", [("f", {})])


def test_one_call_ends_an_answer_that_may_have_one() -> None:
    text = '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}'
    assert read(form_of("mistral_v03"), text, only_one=True) == ("", [("f", {"a": 1})], True)


def test_templates_without_tools_and_with_other_forms_are_known() -> None:
    assert not knows_tools(ChatTemplate({"default": ALL["zephyr"]}, {}))
    other = ChatTemplate({"default": ALL["glm4moe"]}, {})
    assert (knows_tools(other), CallForm.learn(other, ENDS)) == (True, None)
