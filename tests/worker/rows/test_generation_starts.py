"""Loss is carried from where a generation begins to its end of turn, as TRL tokenizes the same conversations."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast
from trl.data_utils import common_prefix_length

from api.spec.formats import FORMATS, Conversation, RowError
from tests.worker import bases, templates
from worker.rows.chat_template import GENERATION_TAG, ChatTemplate
from worker.rows.render import Renderer
from worker.rows.tokenize_rows import TokenizerWrapper

TOKENIZERS = {"byte_level": bases.byte_level, "sentence_piece": bases.sentence_piece}
USER = {"role": "user", "content": "2+2?"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "What it does.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Where."}}},
        },
    }
    for name in ("weather", "news")
]


def answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def calls(*functions: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "role": "assistant",
        "tool_calls": [
            {"id": f"call{at:05}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
            for at, (name, arguments) in enumerate(functions)
        ],
    }


SUNNY = {"role": "tool", "tool_call_id": "call00000", "content": "sunny", "name": "weather"}
PARIS = ("weather", {"city": "Paris", "days": 3})
STEPS = [USER, calls(PARIS), SUNNY, calls(("news", {"city": "Rome"})), {**SUNNY, "name": "news"}, answer("Done")]
LATER = [{**USER, "content": "3+3?"}, answer("6")]
TALKS = {
    "answer": [USER, answer("4")],
    "second answer": [USER, answer("4"), {**USER, "content": "3+3? "}, answer("6")],
    "white space": [USER, answer("\n 4 ")],
}
CALLS = {
    "call": [USER, calls(PARIS)],
    "no arguments": [USER, calls(("weather", {}))],
    "numbers only": [USER, calls(("weather", {"days": 3}))],
    "two calls": [USER, calls(PARIS, ("news", {"city": "Rome", "days": 4}))],
    "after a tool": [USER, calls(PARIS), SUNNY, answer("It is sunny")],
}
ROWS: dict[str, dict[str, Any]] = {name: {"messages": messages} for name, messages in TALKS.items()} | {
    name: {"messages": messages, "tools": TOOLS} for name, messages in CALLS.items()
}
UNMARKED = [name for name, source in templates.ALL.items() if not GENERATION_TAG.search(source)]
WITHOUT_CALLS = 32
"""Of the templates here, those that do not show a call to the model."""


@cache
def tokenizers(name: str, folder: Path) -> tuple[TokenizerWrapper, Any]:
    """Ours, and the same tokenizer in transformers."""
    base = bases.base(folder / name, template=None, tokenizer=TOKENIZERS[name](), eos="</s>")
    theirs = PreTrainedTokenizerFast(
        tokenizer_file=str(base / "tokenizer.json"), bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    return TokenizerWrapper.load(base), theirs


@cache
def renderer(name: str) -> Renderer:
    template = ChatTemplate(
        {"default": templates.ALL[name]}, {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    )
    return Renderer(template, end_texts=frozenset({"</s>"}), added_texts=set(bases.SPECIAL))


def conversation(row: dict[str, Any]) -> Conversation:
    parsed = FORMATS["chat"].parse(row)
    assert isinstance(parsed, Conversation)
    return parsed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


@pytest.mark.parametrize(
    ("name", "tokenizer"),
    [(name, "byte_level") for name in UNMARKED] + [(name, "sentence_piece") for name in templates.OLDER],
)
def test_a_completion_carries_loss_where_trl_has_it(name: str, tokenizer: str, folder: Path) -> None:
    ours, theirs = tokenizers(tokenizer, folder)
    for talk, row in ROWS.items():
        try:
            messages, rendered = _rendered(name, row)
        except RowError:
            assert talk in CALLS, f"{talk} is refused"
            continue
        found = ours.encode_spanned([rendered])[0]
        options = {"tools": row.get("tools"), "chat_template": templates.ALL[name], "return_dict": False}
        prompt = theirs.apply_chat_template(messages[:-1], add_generation_prompt=True, **options)
        whole = theirs.apply_chat_template(messages, **options)
        assert found.tokens.tolist() == whole, talk
        learnt = np.flatnonzero(found.loss_weights)
        runs = np.split(learnt, np.flatnonzero(np.diff(learnt) > 1) + 1)
        assert runs[-1][0] == common_prefix_length(prompt, whole), talk
        rest = rendered.text[rendered.spans[-1].end :].replace("</s>", "").strip()
        assert rest in {"", "<|tool_response>"}, talk


@pytest.mark.parametrize("name", sorted(templates.ALL.keys() - set(UNMARKED)))
def test_what_a_template_marks_itself_carries_loss(name: str, folder: Path) -> None:
    ours, theirs = tokenizers("byte_level", folder)
    for talk, row in ROWS.items():
        try:
            messages, rendered = _rendered(name, row)
        except RowError:
            assert talk in CALLS, f"{talk} is refused"
            continue
        marked = theirs.apply_chat_template(
            messages,
            tools=row.get("tools"),
            chat_template=templates.ALL[name],
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        found = ours.encode_spanned([rendered])[0]
        prompt = ours.tokenizer.encode(renderer(name).generation_prompt, add_special_tokens=False).ids
        expected = _after_prompts(found.tokens.tolist(), marked["assistant_masks"], prompt)
        assert (found.loss_weights > 0).astype(int).tolist() == expected, talk


def test_a_call_is_learnt_whole_where_its_name_is_written_twice() -> None:
    _, rendered = _rendered("muse_glimmer", ROWS["after a tool"])
    call, _ = rendered.spans
    learnt = rendered.text[call.start : call.end]
    assert learnt == (
        ' to=weather<|message|><atem:function_calls>\n<atem:invoke name="weather">\n'
        '<atem:parameter name="city">Paris</atem:parameter>\n<atem:parameter name="days">3</atem:parameter>\n'
        "</atem:invoke>\n</atem:function_calls><|eot|>"
    )


def test_a_call_that_a_template_drops_is_not_taken_for_one_that_a_tool_answers() -> None:
    two = calls(("weather", {"days": 1}), ("weather", {"days": 2}))
    row = {"messages": [USER, two, SUNNY, answer("Sunny")], "tools": TOOLS}
    with pytest.raises(RowError) as refused:
        _rendered("gptoss", row)
    assert refused.value.code == "tools_not_supported"


@pytest.mark.parametrize("name", UNMARKED)
def test_calls_in_several_steps_are_learnt_although_a_question_follows(name: str) -> None:
    if _refuses(name, {"messages": STEPS, "tools": TOOLS}):
        return
    learnt = _learnt(name, [*STEPS, *LATER])
    assert [word in text for word, text in zip(("Paris", "Rome", "Done", "6"), learnt, strict=True)] == [True] * 4
    assert not any("sunny" in text or "3+3?" in text for text in learnt)


def test_an_earlier_answer_begins_where_its_reasoning_is_left_out() -> None:
    """The generation prompt of this template opens the reasoning, which later answers have."""
    later = [LATER[0], *STEPS[1:]]
    begun = [text[:9] for text in _learnt("qwen3_5_think", [*STEPS, *later])]
    assert begun == ["<tool_cal", "<tool_cal", "Done<|im_", *["\n</think>"] * 3]


def test_ids_of_calls_that_a_template_refuses_are_replaced() -> None:
    [call] = calls(PARIS)["tool_calls"]
    made = {"role": "assistant", "tool_calls": [{**call, "id": "call_fhPzBDKwtpS3sUsbNZ8Gg4xq"}]}
    result = {**SUNNY, "tool_call_id": "call_fhPzBDKwtpS3sUsbNZ8Gg4xq"}
    row = {"messages": [USER, made, result, answer("Sunny")], "tools": TOOLS}
    assert _rendered("mistral_v03", row)[1].text.count('id": "call00001"') == 2


def test_as_many_templates_show_calls_as_are_known_to() -> None:
    refused = [name for name in templates.ALL if _refuses(name, ROWS["call"])]
    assert len(refused) == WITHOUT_CALLS, refused


@pytest.mark.parametrize("name", ["llama_2", "deepseek_r1_distill", "qwen3_5_think", "qwen2_5"])
def test_a_long_conversation_is_not_rendered_anew_for_each_answer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = renderer(name)
    messages = [each for at in range(100) for each in ({**USER, "content": f"{at}? "}, answer(str(at)))]
    renderings: list[int] = []
    render = own.template.render

    def counted(shown: Any, *given: Any, **options: Any) -> str:
        renderings.append(len(shown))
        return render(shown, *given, **options)

    monkeypatch.setattr(own.template, "render", counted)
    assert len(own.render(conversation({"messages": messages})).spans) == 100
    assert len(renderings) < 8


def _rendered(name: str, row: dict[str, Any]) -> tuple[Any, Any]:
    """The messages in the shape that the template takes, and what is learnt."""
    parsed, own = conversation(row), renderer(name)
    rendered = own.render(parsed)
    return own._plain(parsed)[1], rendered


def _after_prompts(tokens: list[int], marks: list[int], prompt: list[int]) -> list[int]:
    """The marks without those of the generation prompt, around which some templates put them, too."""
    starts = [at for at, mark in enumerate(marks) if mark and not (at and marks[at - 1])]
    prompts = {at + more for at in starts if tokens[at : at + len(prompt)] == prompt for more in range(len(prompt))}
    return [0 if at in prompts else mark for at, mark in enumerate(marks)]


def _learnt(name: str, messages: list[dict[str, Any]]) -> list[str]:
    _, rendered = _rendered(name, {"messages": messages, "tools": TOOLS})
    return [rendered.text[span.start : span.end] for span in rendered.spans]


def _refuses(name: str, row: dict[str, Any]) -> bool:
    try:
        _rendered(name, row)
    except RowError:
        return True
    return False
