"""Whose reasoning is rendered and learnt: what a template shows, or what `training.reasoning` says."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from api.spec.formats import FORMATS, Conversation, PromptCompletion, RowError
from api.spec.methods.supervised import Supervised
from tests.worker import bases, templates
from tests.worker.prepared import jsonl, prepare
from worker.rows.chat_template import ChatTemplate
from worker.rows.render import Rendered, Renderer
from worker.rows.row_builder import RowBuilder
from worker.shared.arrays import load_rows

CHOICES: list[Any] = ["auto", "keep", "last", "drop"]
OPEN = {name for name in templates.ALL if name.startswith(("gemma4", "diffusion_gemma"))}
"""Templates that show reasoning beside some calls only, or in a form of their own."""
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def under_its_key(reasoning: str, answer: str) -> dict[str, Any]:
    return {"role": "assistant", "content": answer, "reasoning_content": reasoning}


def typed(reasoning: str, answer: str) -> dict[str, Any]:
    return {"role": "assistant", "content": f"<think>\n{reasoning}\n</think>\n\n{answer}"}


def without_opening_tag(reasoning: str, answer: str) -> dict[str, Any]:
    return {"role": "assistant", "content": f"{reasoning}\n</think>\n\n{answer}"}


FORMS = {"key": under_its_key, "typed": typed, "open": without_opening_tag}


def talk(form: Any) -> dict[str, Any]:
    first, second = {"role": "user", "content": "2+2?"}, {"role": "user", "content": "3+3?"}
    return {"messages": [first, form("Two twos.", "4"), second, form("Two threes.", "6")]}


@cache
def template(name: str) -> ChatTemplate:
    return ChatTemplate({"default": templates.ALL[name]}, NAMED)


@cache
def renderer(name: str, reasoning: Any) -> Renderer:
    return Renderer(template(name), end_texts=frozenset({"</s>"}), added_texts=set(bases.SPECIAL), reasoning=reasoning)


def render(name: str, row: dict[str, Any], reasoning: Any) -> Rendered:
    return renderer(name, reasoning).render(conversation(row))


def conversation(row: dict[str, Any]) -> Conversation:
    parsed = FORMATS["chat"].parse(row)
    assert isinstance(parsed, Conversation)
    return parsed


def learnt(rendered: Rendered) -> str:
    return "".join(rendered.text[span.start : span.end] for span in rendered.spans)


def left_out(rendered: Rendered) -> list[str]:
    return [warning.message for warning in rendered.warnings if warning.code == "left_out"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", templates.ALL)
def test_reasoning_that_a_template_drops_is_noticed(name: str, form: str) -> None:
    rendered = render(name, talk(FORMS[form]), "auto")
    for number, said in ((2, "Two twos."), (4, "Two threes.")):
        noticed = any(message.startswith(f"message {number} (reasoning)") for message in left_out(rendered))
        assert noticed == (said not in rendered.text)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", sorted(templates.ALL.keys() - OPEN))
def test_the_reasoning_asked_for_is_learnt_and_no_other(name: str, form: str) -> None:
    for choice, expected in (("keep", "both"), ("last", "Two threes."), ("drop", "none")):
        rendered = render(name, talk(FORMS[form]), choice)
        for said in ("Two twos.", "Two threes."):
            assert learnt(rendered).count(said) == rendered.text.count(said) == (expected in ("both", said))
        assert rendered.text.count("2+2?") == rendered.text.count("3+3?") == 1
        assert not left_out(rendered)


@pytest.mark.parametrize("name", ["qwen3", "nemotron_3_nano", "gptoss", "gemma4_v5", "glm4moe", "qwen3_5_think"])
def test_kept_reasoning_stands_as_the_template_writes_it_in_the_last_answer(name: str) -> None:
    row = talk(under_its_key)
    kept, alone = render(name, row, "keep"), render(name, {"messages": row["messages"][:2]}, "auto")
    first, last = (each.text[each.spans[0].start : each.spans[0].end] for each in (kept, alone))
    assert first[: first.index("4")] == last[: last.index("4")]
    assert kept.text[: kept.spans[0].start] == alone.text[: alone.spans[0].start]


SWITCHES = [
    ({"preserve_thinking": True}, ("qwen3_6", "qwen3_8", "lfm2_2_5", "lfm2_2_5_v2")),
    ({"truncate_history_thinking": False}, ("nemotron_3_nano", "nemotron_3_super", "nemotron_3_ultra")),
    ({"chat_template": templates.ALL["qwen3_training"]}, ("qwen3",)),
]


@pytest.mark.parametrize(("options", "name"), [(options, name) for options, names in SWITCHES for name in names])
def test_kept_reasoning_is_what_a_templates_own_switch_shows(
    tmp_path: Path, options: dict[str, Any], name: str
) -> None:
    tokenizer = bases.base(tmp_path, template=None) / "tokenizer.json"
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer), **NAMED)
    messages = talk(under_its_key)["messages"]
    expected = theirs.apply_chat_template(messages, tokenize=False, **{"chat_template": templates.ALL[name], **options})
    assert render(name, talk(under_its_key), "keep").text == expected


def test_reasoning_of_r1_stands_where_its_generation_prompt_opens_it() -> None:
    for form in FORMS.values():
        rendered = render("deepseek_r1_distill", talk(form), "keep")
        said = [rendered.text[span.start : span.end].partition("<")[0] for span in rendered.spans]
        assert said == ["Two twos.\n", "Two threes.\n"]
        assert learnt(rendered).count("</think>\n\n") == 2
        assert rendered.text == render("deepseek_r1_distill_training", talk(typed), "auto").text


@pytest.mark.parametrize("choice", CHOICES)
def test_reasoning_beside_calls_belongs_to_the_turn_that_calls(choice: Any) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    messages = [
        *talk(under_its_key)["messages"][:2],
        {"role": "user", "content": "Is it raining?"},
        {"role": "assistant", "reasoning_content": "I must look.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
        {"role": "assistant", "content": "<think>So no.</think>No."},
    ]
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    found = learnt(render("qwen3", {"messages": messages, "tools": tools}, choice))
    shown = [said for said in ("Two twos.", "I must look.", "So no.") if said in found]
    expected = {"auto": 1, "keep": 0, "last": 1, "drop": 3}[choice]
    assert shown == ["Two twos.", "I must look.", "So no."][expected:]
    assert found.index("I must look.") < found.index("weather") if choice != "drop" else "weather" in found


def test_a_template_that_shows_reasoning_beside_calls_only_refuses_to_keep_the_rest() -> None:
    with pytest.raises(RowError, match=r"message 4: its reasoning cannot be kept") as refused:
        render("gemma4", talk(under_its_key), "keep")
    assert refused.value.code == "reasoning_not_kept"


def test_reasoning_in_plain_text_cannot_be_taken_out() -> None:
    builder = RowBuilder(Supervised(), None, reasoning="drop")
    with pytest.raises(RowError, match=r"training\.reasoning") as refused:
        builder.build(PromptCompletion("2+2?", "<think>Two twos.</think>4"))
    assert refused.value.code == "reasoning_in_text"


@pytest.mark.parametrize("choice", CHOICES)
def test_arrays_hold_the_reasoning_asked_for(tmp_path: Path, choice: str) -> None:
    base = bases.base(tmp_path / "base", template=templates.ALL["deepseek_r1_distill"])
    outcome = prepare(tmp_path / "run", base, jsonl(talk(typed)), reasoning=choice)
    assert outcome.report["ok"], outcome.report
    [(tokens, weights)] = load_rows(tmp_path / "run/data/train.safetensors")
    text = Tokenizer.from_file(str(base / "tokenizer.json")).decode(tokens[weights > 0].tolist())
    assert [said in text for said in ("Two twos.", "Two threes.")] == {
        "auto": [False, False],
        "keep": [True, True],
        "last": [False, True],
        "drop": [False, False],
    }[choice]
    assert ("left_out" in json.dumps(outcome.findings)) == (choice == "auto")
