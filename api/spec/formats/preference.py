"""Pairs of answers, one preferred: OpenAI's `{"input": …, "preferred_output": …, "non_preferred_output": …}`, and
`{"prompt": …, "chosen": …, "rejected": …}`, with texts or messages, the prompt under any of the keys in
api.spec.formats.asked or repeated by both answers."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from api.spec.formats.asked import (
    ASKED_KEYS,
    Asked,
    as_text,
    find_asked,
    json_notice,
    require_one_question,
    says_nothing,
)
from api.spec.formats.base import (
    ChatOrText,
    Format,
    LabelKind,
    Pair,
    PromptCompletion,
    Row,
    RowError,
    RowWarning,
    Text,
    ignored_keys,
    kind,
    notice_once,
    number,
    required_string,
)
from api.spec.formats.calls import Messages
from api.spec.formats.messages import answered, order_notices, parse_messages, parse_row_tools
from api.spec.formats.repeated import require_no_prompt_elsewhere, split_repeated, without_repeated
from api.spec.formats.structured import messages_in, structure_in

OPENAI = (("preferred_output", "non_preferred_output"), ("preferred_completion", "non_preferred_completion"))
"""Its names for the two answers, and those of an older version."""
SIDES = ("chosen", "rejected")


class Preference(Format):
    """Only the last answer of each side counts; what stands before it is the prompt."""

    name: ClassVar[str] = "preference"
    label_kind: ClassVar[LabelKind | None] = "margin"
    title: ClassVar[str] = "fine-tune-preference"
    summary: ClassVar[str] = "Pairs of answers to one prompt, of which one is preferred."
    required: ClassVar[tuple[frozenset[str], ...]] = (
        *(frozenset({"input", *names}) for names in OPENAI),
        frozenset(SIDES),
    )
    optional: ClassVar[frozenset[str]] = frozenset({"tools", "margin"}) | ASKED_KEYS
    example: ClassVar[Mapping[str, Any]] = {
        "input": {"messages": [{"role": "user", "content": "2 + 2?"}]},
        "preferred_output": [{"role": "assistant", "content": "4"}],
        "non_preferred_output": [{"role": "assistant", "content": "5"}],
    }

    def parse(self, row: Row) -> Pair:
        notices: list[RowWarning] = []
        chosen, rejected = self._sides(row, notices)
        margin = number(row.get("margin"))
        if row.get("margin") is not None and margin is None:
            raise RowError(f"'margin' must be a number, not {kind(row['margin'])}", code="invalid_type")
        for side, name in ((chosen, "preferred"), (rejected, "other")):
            if says_nothing(side):
                notices.append(RowWarning("empty_answer", f"the {name} answer is empty"))
        if _content(chosen) == _content(rejected):
            notices.append(RowWarning("identical_answers", "both answers are the same, so there is nothing to prefer"))
        return Pair(chosen, rejected, margin, notices)

    def _sides(self, row: Row, notices: list[RowWarning]) -> tuple[Text, Text]:
        for names in OPENAI:
            if frozenset({"input", *names}) <= row.keys():
                notices += ignored_keys(row, {"input", "margin", *names})
                return _openai(row, names, notices)
        asked = find_asked(row, notices)
        if asked is not None:
            require_one_question(row, asked)
        read = frozenset({"tools", "margin", *SIDES}) | (asked.read if asked else frozenset())
        notices += ignored_keys(row, read)
        messages = _as_messages(row, notices)
        sides = _conversations(row, messages, asked, notices) if messages else _texts(row, asked, notices)
        if asked is None and all(_prompt_of(side) == "" for side in sides):
            require_no_prompt_elsewhere(row, read)
            notices.append(RowWarning("no_prompt", "has no prompt: the answers are compared as they stand"))
        return sides


def _openai(row: Row, names: tuple[str, str], notices: list[RowWarning]) -> tuple[Text, Text]:
    given = row["input"]
    given = structure_in(given) or given if isinstance(given, str) else given
    if isinstance(given, str):
        _note_shape("input", notices)
        given = [{"role": "user", "content": given}]
    if isinstance(given, list):
        given = {"messages": given}
    if not isinstance(given, dict):
        raise RowError(f"'input' must be an object with 'messages', not {kind(given)}", code="invalid_type")
    prompt, _ = parse_messages(given.get("messages"), notices, "input.messages")
    tools = parse_row_tools(given, notices)
    notices += order_notices(prompt, tools)
    sides = []
    for name in names:
        answer = _one_message(row[name], name, notices)
        sides.append(answered([*prompt, *parse_messages(answer, notices, name, prompt)[0]], tools, name))
    return sides[0], sides[1]


def _one_message(raw: Any, name: str, notices: list[RowWarning]) -> list[Any]:
    """An answer in OpenAI's shape, an array of one message; a message or a text alone is read as such."""
    found = raw
    if isinstance(raw, str):
        found = messages_in(raw)
        if found is None:
            found = {"role": "assistant", "content": raw}
    if isinstance(found, dict):
        _note_shape(name, notices)
        found = [found]
    if not isinstance(found, list) or len(found) != 1:
        raise RowError(f"'{name}' must be an array of one message from the assistant", code="invalid_messages")
    return found


def _note_shape(key: str, notices: list[RowWarning]) -> None:
    notice_once(notices, "bare_message", f"'{key}' is read as an array of one message")


def _texts(row: Row, asked: Asked | None, notices: list[RowWarning]) -> tuple[Text, Text]:
    if row.get("tools"):
        notices.append(
            RowWarning("ignored_key", "key 'tools' is ignored: only answers that are messages can call them")
        )
    chosen, rejected = (required_string(row, name) for name in SIDES)
    if asked is not None and asked.text is None:
        asked = replace(asked, messages=without_repeated(asked.messages, (chosen, rejected), notices))
    asked, chosen, rejected = split_repeated(asked, chosen, rejected, notices)
    return as_text(asked, chosen), as_text(asked, rejected)


def _as_messages(row: Row, notices: list[RowWarning]) -> list[Any] | None:
    """Both answers as messages, if one of them is; None where both are texts."""
    sides = [row[name] for name in SIDES]
    found = [messages_in(side) for side in sides]
    if not any(isinstance(side, list | dict) for side in sides):
        if not all(found):
            return None
        notices += map(json_notice, SIDES)
    return [
        held or ([{"role": "assistant", "content": side}] if isinstance(side, str) else side)
        for side, held in zip(sides, found, strict=True)
    ]


def _conversations(row: Row, sides: list[Any], asked: Asked | None, notices: list[RowWarning]) -> tuple[Text, Text]:
    before = asked.messages if asked else []
    tools = parse_row_tools({"tools": row.get("tools")}, notices)
    answers = [parse_messages(side, notices, name, before)[0] for side, name in zip(sides, SIDES, strict=True)]
    before = without_repeated(before, [answer[-1].get("content") for answer in answers], notices)
    pair = [
        answered([*_not_in(before, answer), *answer], tools, name) for answer, name in zip(answers, SIDES, strict=True)
    ]
    notices += order_notices(pair[0].messages, tools)
    if pair[0].messages[:-1] != pair[1].messages[:-1]:
        notices.append(RowWarning("different_prompts", "the two answers are given after different messages"))
    return pair[0], pair[1]


def _not_in(before: Messages, answer: Messages) -> Messages:
    """What of the prompt the answer's own messages do not repeat."""
    repeated = {_words(message) for message in answer[:-1]}
    own_system = answer[0]["role"] == "system"
    return [
        message
        for message in before
        if _words(message) not in repeated and not (own_system and message["role"] == "system")
    ]


def _words(message: dict[str, Any]) -> str:
    return str(message.get("content", "")).strip()


def _prompt_of(side: Text) -> str:
    """What stands before the answer, as far as it matters whether anything does."""
    if isinstance(side, PromptCompletion):
        return side.given
    messages = side.conversation.messages if isinstance(side, ChatOrText) else side.messages
    return "".join(map(_words, messages[:-1]))


def _content(side: Text) -> object:
    return side.conversation.messages if isinstance(side, ChatOrText) else getattr(side, "messages", side)
