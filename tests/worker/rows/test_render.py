"""Properties of what is learnt from a conversation, on templates of every kind that bases come with."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.spec.formats import FORMATS, Conversation, RowError
from tests.worker import bases
from worker.rows.chat_template import ChatTemplate
from worker.rows.render import Rendered, Renderer
from worker.rows.tokenize_rows import TokenizerWrapper

USER, HELLO = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}
TEMPLATES = {"chatml": bases.CHATML, "stripping": bases.STRIPPING, "tools": bases.TOOLS, "thinking": bases.THINKING}
CALL = {
    "role": "assistant",
    "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris", "days": 3}'}}
    ],
}
TOOL_ROW: dict[str, Any] = {
    "messages": [
        USER,
        CALL,
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
        {"role": "assistant", "content": "It is sunny."},
    ],
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
}


def renderer(template: str) -> Renderer:
    named = {"bos_token": "<s>", "eos_token": "</s>"}
    added = set(bases.SPECIAL)
    return Renderer(ChatTemplate({"default": template}, named), end_texts=frozenset({"</s>"}), added_texts=added)


def render(template: str, *messages: dict[str, Any], train_on: Any = "all", **row: Any) -> Rendered:
    return renderer(template).render(parse({"messages": list(messages), **row}), train_on)


def parse(row: dict[str, Any]) -> Conversation:
    example = FORMATS["chat"].parse(row)
    assert isinstance(example, Conversation)
    return example


def learnt(rendered: Rendered) -> list[str]:
    return [rendered.text[span.start : span.end] for span in rendered.spans]


def test_what_the_assistant_says_is_learnt_with_its_end_of_turn() -> None:
    rendered = render(bases.CHATML, USER, HELLO, USER, {"role": "assistant", "content": " Bye\n"})
    assert learnt(rendered) == ["Hello there<|im_end|>", " Bye\n<|im_end|>"]


def test_equal_questions_and_answers_are_not_confused() -> None:
    same = {"role": "user", "content": "Hello there"}
    rendered = render(bases.CHATML, same, HELLO, same, HELLO)
    assert learnt(rendered) == ["Hello there<|im_end|>"] * 2
    assert all(rendered.text[: span.start].endswith("<|im_start|>assistant\n") for span in rendered.spans)


def test_template_that_strips_answers_still_shows_them() -> None:
    assert learnt(render(bases.STRIPPING, USER, {"role": "assistant", "content": "\n Hello \n"})) == [" Hello</s>"]


def test_templates_own_marks_decide_and_agree_with_ours() -> None:
    turns = (USER, HELLO, USER, {"role": "assistant", "content": "Bye"})
    ours, marked = render(bases.CHATML, *turns), render(bases.MARKED_CHATML, *turns)
    assert (ours.text, ours.spans) == (marked.text, marked.spans)


def test_marks_that_leave_the_end_of_turn_out_are_extended_to_it() -> None:
    short = bases.MARKED_CHATML.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")
    assert learnt(render(short, USER, HELLO)) == ["Hello there<|im_end|>"]


def test_marks_around_a_whole_turn_do_not_make_its_beginning_learnt() -> None:
    """As in SmolLM3's template."""
    template = (
        "{% for m in messages %}{% generation %}{{ '<|im_start|>assistant\n' + m.content + '<|im_end|>' }}"
        "{% endgeneration %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    assert learnt(render(template, HELLO)) == ["Hello there<|im_end|>"]


def test_a_template_that_writes_the_time_writes_the_same_in_each_rendering() -> None:
    assert learnt(render("{{ strftime_now('%f') }}" + bases.CHATML, USER, HELLO)) == ["Hello there<|im_end|>"]


def test_messages_of_weight_zero_are_given_but_not_learnt() -> None:
    muted = {**HELLO, "weight": 0}
    rendered = render(bases.CHATML, USER, muted, USER, {"role": "assistant", "content": "Bye", "weight": 1})
    assert learnt(rendered) == ["Bye<|im_end|>"]
    assert "Hello there" in rendered.text


def test_only_the_last_answer_is_learnt_if_asked() -> None:
    turns = (USER, HELLO, USER, {"role": "assistant", "content": "Bye"})
    assert learnt(render(bases.CHATML, *turns, train_on="last")) == ["Bye<|im_end|>"]
    with pytest.raises(RowError, match="weight 0 on its last answer"):
        render(bases.CHATML, USER, HELLO, USER, {**HELLO, "weight": 0}, train_on="last")


def test_tool_calls_are_learnt_from_where_the_generation_begins() -> None:
    rendered = renderer(bases.TOOLS).render(parse(TOOL_ROW))
    call = '<call>{"name": "weather", "arguments": {"city": "Paris", "days": 3}}</call><|im_end|>'
    assert learnt(rendered) == [call, "It is sunny.<|im_end|>"]


@pytest.mark.parametrize("messages", [TOOL_ROW["messages"], [USER, HELLO]])
def test_base_whose_template_ignores_tools_refuses_rows_with_tools(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(RowError, match="chat template") as caught:
        renderer(bases.CHATML).render(parse({**TOOL_ROW, "messages": messages}))
    assert caught.value.code == "tools_not_supported"


def test_reasoning_is_learnt_where_the_template_shows_it() -> None:
    thought = {**HELLO, "reasoning_content": "A greeting."}
    assert learnt(render(bases.THINKING, USER, thought)) == ["<think>\nA greeting.\n</think>\n\nHello there<|im_end|>"]
    assert render(bases.CHATML, USER, thought).warnings[0].code == "left_out"


def test_what_a_template_leaves_out_is_noticed() -> None:
    warnings = render(bases.STRIPPING, {"role": "system", "content": "Be brief"}, USER, HELLO).warnings
    assert [(warning.code, warning.message) for warning in warnings] == [
        ("left_out", "message 1 (system) is left out by the chat template")
    ]


def test_template_that_rewrites_answers_is_refused_rather_than_guessed_at() -> None:
    shouting = bases.CHATML.replace("message['content']", "message['content'][:5]")
    with pytest.raises(RowError, match="cannot be found in the rendered text") as caught:
        render(shouting, USER, HELLO)
    assert caught.value.code == "answer_not_found"


def test_template_without_end_of_turn_is_noticed() -> None:
    plain = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    assert [warning.code for warning in render(plain, USER, HELLO).warnings] == ["no_end_of_turn"]


def test_what_a_template_raises_reaches_the_user() -> None:
    picky = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + bases.CHATML
    with pytest.raises(RowError, match="no system here"):
        render(picky, {"role": "system", "content": "x"}, USER, HELLO)


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(TEMPLATES)), st.lists(st.tuples(words, words), min_size=1, max_size=3))
def test_a_span_begins_where_the_generation_prompt_ends(name: str, turns: list[tuple[str, str]]) -> None:
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    own = renderer(TEMPLATES[name])
    try:
        rendered = own.render(parse({"messages": messages}))
    except RowError as error:
        if error.code != "private_use_characters":
            assert not all(answer.strip() for _, answer in turns), "only a blank answer may be refused"
        return
    assert rendered.text == own.template.render(messages)
    for number, span in enumerate(rendered.spans):
        prompt = own.template.render(messages[: 2 * number + 1], add_generation_prompt=True)
        if rendered.text.startswith(prompt):
            assert rendered.text[len(prompt) : span.start].strip() == ""
        assert rendered.text[: span.end].rstrip().endswith(("<|im_end|>", "</s>"))


@pytest.mark.parametrize("tokenizer", [bases.byte_level, bases.sentence_piece])
@pytest.mark.parametrize("name", ["chatml", "stripping"])
def test_learnt_tokens_spell_what_is_learnt(tmp_path: Path, name: str, tokenizer: Any) -> None:
    folder = bases.base(tmp_path, template=TEMPLATES[name], tokenizer=tokenizer(), eos="</s>")
    tokens = TokenizerWrapper.load(folder)
    rendered = render(TEMPLATES[name], USER, HELLO, USER, {"role": "assistant", "content": "Two  spaces,\nünïcode 😀"})
    row = tokens.encode_spanned([rendered])[0]
    spelt = tokens.tokenizer.decode(row.tokens[row.loss_weights > 0].tolist(), skip_special_tokens=False)
    if tokenizer is bases.byte_level:
        assert spelt == "".join(learnt(rendered))
    assert (row.loss_weights > 0).sum() < len(row.tokens)
    assert spelt.count("<|im_end|>") + spelt.count("</s>") == 2
