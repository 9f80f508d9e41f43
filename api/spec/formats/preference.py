"""Pairs of answers, one preferred: OpenAI's `{"input": …, "preferred_output": …, "non_preferred_output": …}`, and
`{"prompt": …, "chosen": …, "rejected": …}` with texts or messages.

The prompt may be under any of the keys in api.spec.formats.prompt_parsing, or at the beginning of both answers.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from api.spec.fields import JsonObject
from api.spec.formats.base import (
    ChatOrText,
    Format,
    LabelKind,
    Messages,
    Pair,
    PromptCompletion,
    Row,
    RowError,
    RowWarning,
    Text,
    json_type,
    parse_number,
    required_string,
    unread_key_warnings,
    warn_once,
)
from api.spec.formats.json_text import find_messages, parse_json_text
from api.spec.formats.messages import order_warnings, parse_messages, parse_row_tools, train_on_last_answer
from api.spec.formats.prompt_parsing import (
    PROMPT_KEYS,
    ParsedPrompt,
    find_prompt,
    has_empty_answer,
    json_warning,
    require_one_prompt,
    with_answer,
)
from api.spec.formats.repeated_prompt import drop_repeated_answer, require_no_unread_prompt, split_repeated_prompt

OPENAI = (("preferred_output", "non_preferred_output"), ("preferred_completion", "non_preferred_completion"))
"""OpenAI's keys for the preferred and the other answer, and those of an older version of OpenAI's format."""
SIDES = ("chosen", "rejected")


class Preference(Format):
    """Only the last answer of each side is compared; everything before it is the prompt."""

    name: ClassVar[str] = "preference"
    label_kind: ClassVar[LabelKind | None] = "margin"
    title: ClassVar[str] = "fine-tune-preference"
    summary: ClassVar[str] = "Pairs of answers to one prompt, of which one is preferred."
    required: ClassVar[tuple[frozenset[str], ...]] = (
        *(frozenset({"input", *names}) for names in OPENAI),
        frozenset(SIDES),
    )
    optional: ClassVar[frozenset[str]] = frozenset({"tools", "margin"}) | PROMPT_KEYS
    example: ClassVar[Mapping[str, object]] = {
        "input": {"messages": [{"role": "user", "content": "2 + 2?"}]},
        "preferred_output": [{"role": "assistant", "content": "4"}],
        "non_preferred_output": [{"role": "assistant", "content": "5"}],
    }

    def parse(self, row: Row) -> Pair:
        warnings: list[RowWarning] = []
        chosen, rejected = self._sides(row, warnings)
        margin = parse_number(row.get("margin"))
        if row.get("margin") is not None and margin is None:
            raise RowError(f"'margin' must be a number, not {json_type(row['margin'])}", code="invalid_type")
        for side, name in ((chosen, "preferred"), (rejected, "other")):
            if has_empty_answer(side):
                warnings.append(RowWarning("empty_answer", f"the {name} answer is empty"))
        if _content(chosen) == _content(rejected):
            warnings.append(RowWarning("identical_answers", "both answers are the same, so neither can be preferred"))
        return Pair(chosen, rejected, margin, warnings)

    def _sides(self, row: Row, warnings: list[RowWarning]) -> tuple[Text, Text]:
        for names in OPENAI:
            if frozenset({"input", *names}) <= row.keys():
                warnings += unread_key_warnings(row, {"input", "margin", *names})
                return _openai(row, names, warnings)
        prompt = find_prompt(row, warnings)
        if prompt is not None:
            require_one_prompt(row, prompt)
        read = frozenset({"tools", "margin", *SIDES}) | (prompt.read if prompt else frozenset())
        warnings += unread_key_warnings(row, read)
        messages = _as_messages(row, warnings)
        sides = _conversations(row, messages, prompt, warnings) if messages else _texts(row, prompt, warnings)
        if prompt is None and all(_prompt_of(side) == "" for side in sides):
            require_no_unread_prompt(row, read)
            warnings.append(RowWarning("no_prompt", "has no prompt, so the answers are compared without one"))
        return sides


def _openai(row: Row, names: tuple[str, str], warnings: list[RowWarning]) -> tuple[Text, Text]:
    raw = row["input"]
    raw = (parse_json_text(raw) or raw) if isinstance(raw, str) else raw
    if isinstance(raw, str):
        _warn_bare_message("input", warnings)
        raw = [{"role": "user", "content": raw}]
    if isinstance(raw, list):
        raw = {"messages": raw}
    if not isinstance(raw, dict):
        raise RowError(f"'input' must be an object with 'messages', not {json_type(raw)}", code="invalid_type")
    prompt, _ = parse_messages(raw.get("messages"), warnings, "input.messages")
    tools = parse_row_tools(raw, warnings)
    warnings += order_warnings(prompt, tools)
    sides = []
    for name in names:
        answer = _one_message(row[name], name, warnings)
        sides.append(train_on_last_answer([*prompt, *parse_messages(answer, warnings, name, prompt)[0]], tools, name))
    return sides[0], sides[1]


def _one_message(raw: object, name: str, warnings: list[RowWarning]) -> list[object]:
    """Return an answer in OpenAI's form, an array of one message; a bare message or text is wrapped."""
    messages = raw
    if isinstance(raw, str):
        messages = find_messages(raw)
        if messages is None:
            messages = {"role": "assistant", "content": raw}
    if isinstance(messages, dict):
        _warn_bare_message(name, warnings)
        messages = [messages]
    if not isinstance(messages, list) or len(messages) != 1:
        raise RowError(f"'{name}' must be an array of one message from the assistant", code="invalid_messages")
    return messages


def _warn_bare_message(key: str, warnings: list[RowWarning]) -> None:
    warn_once(warnings, "bare_message", f"'{key}' is read as an array of one message")


def _texts(row: Row, prompt: ParsedPrompt | None, warnings: list[RowWarning]) -> tuple[Text, Text]:
    if row.get("tools"):
        warnings.append(RowWarning("ignored_key", "key 'tools' is ignored: only answers of messages can call tools"))
    chosen, rejected = (required_string(row, name) for name in SIDES)
    if prompt is not None and prompt.text is None:
        prompt = replace(prompt, messages=drop_repeated_answer(prompt.messages, (chosen, rejected), warnings))
    prompt, chosen, rejected = split_repeated_prompt(prompt, chosen, rejected, warnings)
    return with_answer(prompt, chosen), with_answer(prompt, rejected)


def _as_messages(row: Row, warnings: list[RowWarning]) -> list[object] | None:
    """Return both answers as messages if one of them is an array or object, or if both are texts that hold messages as
    JSON. Return None if they are plain texts."""
    sides = [row[name] for name in SIDES]
    parsed = [find_messages(side) for side in sides]
    if not any(isinstance(side, list | dict) for side in sides):
        if not all(parsed):
            return None
        warnings += map(json_warning, SIDES)
    return [
        messages or ([{"role": "assistant", "content": side}] if isinstance(side, str) else side)
        for side, messages in zip(sides, parsed, strict=True)
    ]


def _conversations(
    row: Row, sides: list[object], prompt: ParsedPrompt | None, warnings: list[RowWarning]
) -> tuple[Text, Text]:
    context = prompt.messages if prompt else []
    tools = parse_row_tools({"tools": row.get("tools")}, warnings)
    answers = [parse_messages(side, warnings, name, context)[0] for side, name in zip(sides, SIDES, strict=True)]
    context = drop_repeated_answer(context, [answer[-1].get("content") for answer in answers], warnings)
    pair = [
        train_on_last_answer([*_not_in(context, answer), *answer], tools, name)
        for answer, name in zip(answers, SIDES, strict=True)
    ]
    warnings += order_warnings(pair[0].messages, tools)
    if pair[0].messages[:-1] != pair[1].messages[:-1]:
        warnings.append(RowWarning("different_prompts", "the two answers follow different messages"))
    return pair[0], pair[1]


def _not_in(context: Messages, answer: Messages) -> Messages:
    """Return the messages of the prompt (`context`) without those that the answer repeats before its last message."""
    repeated = {_stripped_content(message) for message in answer[:-1]}
    own_system = answer[0]["role"] == "system"
    return [
        message
        for message in context
        if _stripped_content(message) not in repeated and not (own_system and message["role"] == "system")
    ]


def _stripped_content(message: JsonObject) -> str:
    return str(message.get("content", "")).strip()


def _prompt_of(side: Text) -> str:
    """Return the text before the answer, empty if there is none."""
    if isinstance(side, PromptCompletion):
        return side.prompt
    messages = side.conversation.messages if isinstance(side, ChatOrText) else side.messages
    return "".join(map(_stripped_content, messages[:-1]))


def _content(side: Text) -> object:
    return side.conversation.messages if isinstance(side, ChatOrText) else getattr(side, "messages", side)
