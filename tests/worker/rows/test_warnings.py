"""Rows that are valid, and that their author should look at: each slip is a warning of its own."""

import json
from pathlib import Path
from typing import Any

import pytest

from api.spec.formats import FORMATS, Example, PromptCompletion
from api.spec.methods.supervised import Supervised
from tests.worker import bases, templates
from worker.rows.base_warnings import BaseModelWarnings
from worker.rows.findings import Findings
from worker.rows.row_builder import RowBuilder, load_renderer
from worker.rows.tokenize_rows import TokenizerWrapper

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
CALL = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
CALLING = {"role": "assistant", "tool_calls": [CALL]}
SUNNY = {"role": "tool", "tool_call_id": "a", "content": "sunny"}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
THOUGHT = {**ANSWER, "reasoning_content": "A greeting."}


def parsed(messages: list[dict[str, Any]], **row: Any) -> Example:
    return FORMATS["chat"].parse({"messages": messages, **row})


def codes(folder: Path, template: str, example: Example, reasoning: Any = "auto") -> set[str]:
    base = bases.base(folder, template=template)
    tokens = TokenizerWrapper.load(base)
    renderer = load_renderer(base, tokens, reasoning)
    builder = RowBuilder(Supervised(), renderer, reasoning=reasoning, base_warnings=BaseModelWarnings(tokens))
    return {warning.code for warning in builder.build(example)[1]}


@pytest.mark.parametrize(
    ("messages", "tools", "expected"),
    [
        ([USER, CALLING, SUNNY, ANSWER], TOOLS, set()),
        ([USER, CALLING, SUNNY, ANSWER], None, {"undefined_tool"}),
        (
            [USER, {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "news", "arguments": "{}"}}]}],
            TOOLS,
            {"undefined_tool"},
        ),
        ([USER, CALLING, {**SUNNY, "tool_call_id": "b"}, ANSWER], TOOLS, {"unknown_tool_call"}),
        ([USER, {**SUNNY, "tool_call_id": "b"}, ANSWER], None, {"unknown_tool_call"}),
        ([USER, {**ANSWER, "content": " \n\t"}], None, {"empty_answer"}),
        ([USER, {**ANSWER, "content": ""}], None, {"empty_answer"}),
    ],
)
def test_slips_that_a_row_shows_by_itself(messages: list[Any], tools: Any, expected: set[str]) -> None:
    assert {warning.code for warning in parsed(messages, tools=tools).warnings} == expected


@pytest.mark.parametrize("text", ["Say <|im_end|> twice", "<s>Hi"])
def test_a_control_token_in_a_content_is_noticed_whoever_says_it(tmp_path: Path, text: str) -> None:
    asked, answered = parsed([{**USER, "content": text}, ANSWER]), parsed([USER, {**ANSWER, "content": text}])
    assert codes(tmp_path / "a", bases.CHATML, asked) == {"control_token"}
    assert "control_token" in codes(tmp_path / "b", bases.CHATML, answered)
    assert codes(tmp_path / "c", bases.CHATML, parsed([{**USER, "content": "A < b > c"}, ANSWER])) == set()


@pytest.mark.parametrize(
    "name",
    ["deepseek_r1_distill", "qwen3_5_think", "nemotron_3_nano", "qwen3_6"],
)
def test_a_generation_prompt_that_opens_reasoning_wants_answers_with_some(tmp_path: Path, name: str) -> None:
    template = templates.ALL[name]
    assert "no_reasoning" in codes(tmp_path / "a", template, parsed([USER, ANSWER]))
    assert "no_reasoning" not in codes(tmp_path / "b", template, parsed([USER, THOUGHT]), "keep")
    assert "no_reasoning" in codes(tmp_path / "c", template, parsed([USER, THOUGHT]), "drop")


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_nothink", "chatml", "llama3"])
def test_a_generation_prompt_that_opens_none_wants_none(tmp_path: Path, name: str) -> None:
    assert "no_reasoning" not in codes(tmp_path, templates.ALL[name], parsed([USER, ANSWER]))


def test_a_base_without_an_end_token_is_noticed(tmp_path: Path) -> None:
    base = bases.base(tmp_path, template=None)
    settings = json.loads((base / "tokenizer_config.json").read_text())
    passage = PromptCompletion("", "A document.")
    for eos, expected in ((settings["eos_token"], []), (None, ["no_end_token"])):
        (base / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": eos}))
        builder = RowBuilder(Supervised(), None, base_warnings=BaseModelWarnings(TokenizerWrapper.load(base)))
        assert [warning.code for warning in builder.build(passage)[1]] == expected


def test_what_holds_for_every_row_of_a_file_is_said_once(tmp_path: Path) -> None:
    base = bases.base(tmp_path, template=templates.ALL["deepseek_r1_distill"])
    settings = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": None}))
    tokens = TokenizerWrapper.load(base)
    builder = RowBuilder(Supervised(), load_renderer(base, tokens), base_warnings=BaseModelWarnings(tokens))
    rows = [
        parsed([USER, ANSWER]),
        PromptCompletion("", "A document."),
        PromptCompletion("", ""),
        parsed([USER, ANSWER]),
    ]

    def said() -> list[str]:
        found = [warning.code for row in rows for warning in builder.build(row)[1]]
        return [code for code in found if code in ("no_reasoning", "no_end_token")]

    assert said() == ["no_reasoning", "no_end_token"]
    assert said() == []
    builder.begin_file()
    assert said() == ["no_reasoning", "no_end_token"]


def test_a_rare_warning_is_listed_beside_very_many_of_a_kind() -> None:
    findings = Findings()
    for line in range(150):
        findings.warning(line, "unknown_key", "…")
    findings.warning(150, "empty_answer", "…")
    findings.error(151, "invalid_type", "…")
    findings.warning(152, "unknown_key", "…")
    assert [each["line"] for each in findings.listed[-3:]] == [97, 150, 151]
    assert (len(findings.listed), findings.counts["unknown_key"]) == (100, 151)
