"""Pairs of answers, one preferred: OpenAI's `{"input": …, "preferred_output": …, "non_preferred_output": …}`, and
`{"prompt": …, "chosen": …, "rejected": …}`, the prompt optional, with texts or messages."""

from collections.abc import Mapping
from typing import Any, ClassVar

from api.formats.base import (
    Format,
    Notice,
    Pair,
    Passage,
    Row,
    RowError,
    Text,
    kind,
    number,
    optional_string,
    required_string,
)
from api.formats.messages import Messages, answered, is_empty, order_notices, parse_messages, parse_row_tools

OPENAI = (("preferred_output", "non_preferred_output"), ("preferred_completion", "non_preferred_completion"))
"""Its names for the two answers, and those of an older version."""


class Preference(Format):
    """Only the last answer of each side counts; what stands before it is the prompt."""

    name: ClassVar[str] = "preference"
    title: ClassVar[str] = "fine-tune-preference"
    summary: ClassVar[str] = "Pairs of answers to one prompt, of which one is preferred."
    required: ClassVar[tuple[frozenset[str], ...]] = (
        *(frozenset({"input", *names}) for names in OPENAI),
        frozenset({"chosen", "rejected"}),
    )
    optional: ClassVar[frozenset[str]] = frozenset({"prompt", "tools", "margin"})
    example: ClassVar[Mapping[str, Any]] = {
        "input": {"messages": [{"role": "user", "content": "2 + 2?"}]},
        "preferred_output": [{"role": "assistant", "content": "4"}],
        "non_preferred_output": [{"role": "assistant", "content": "5"}],
    }

    def parse(self, row: Row) -> Pair:
        notices = self.unknown_keys(row)
        chosen, rejected = self._sides(row, notices)
        margin = number(row.get("margin"))
        if row.get("margin") is not None and margin is None:
            raise RowError(f"'margin' must be a number, not {kind(row['margin'])}", code="invalid_type")
        for side, name in ((chosen, "preferred"), (rejected, "other")):
            if _says_nothing(side):
                notices.append(Notice("empty_answer", f"the {name} answer is empty"))
        if _content(chosen) == _content(rejected):
            notices.append(Notice("identical_answers", "both answers are the same, so there is nothing to prefer"))
        return Pair(chosen, rejected, margin, notices)

    def _sides(self, row: Row, notices: list[Notice]) -> tuple[Text, Text]:
        for names in OPENAI:
            if frozenset({"input", *names}) <= row.keys():
                return _openai(row, names, notices)
        chosen, rejected = row["chosen"], row["rejected"]
        if isinstance(chosen, list) or isinstance(rejected, list):
            return _messages(row, notices)
        prompt = optional_string(row, "prompt")
        return Passage(prompt, required_string(row, "chosen")), Passage(prompt, required_string(row, "rejected"))


def _openai(row: Row, names: tuple[str, str], notices: list[Notice]) -> tuple[Text, Text]:
    given = row["input"]
    if not isinstance(given, dict):
        raise RowError(f"'input' must be an object with 'messages', not {kind(given)}", code="invalid_type")
    prompt, _ = parse_messages(given.get("messages"), notices, "input.messages")
    tools = parse_row_tools(given)
    notices += order_notices(prompt)
    sides = []
    for name in names:
        answer = row[name]
        if not isinstance(answer, list) or len(answer) != 1:
            raise RowError(f"'{name}' must be an array of one message from the assistant", code="invalid_messages")
        sides.append(answered([*prompt, *parse_messages(answer, notices, name)[0]], tools, name))
    return sides[0], sides[1]


def _messages(row: Row, notices: list[Notice]) -> tuple[Text, Text]:
    (chosen, _), (rejected, _) = (parse_messages(row[name], notices, name) for name in ("chosen", "rejected"))
    prompt = _prompt(row.get("prompt"), chosen, notices)
    tools = parse_row_tools({"tools": row.get("tools")})
    sides = [answered([*prompt, *answer], tools, name) for answer, name in ((chosen, "chosen"), (rejected, "rejected"))]
    notices += order_notices(sides[0].messages)
    if sides[0].messages[:-1] != sides[1].messages[:-1]:
        notices.append(Notice("different_prompts", "the two answers are given after different messages"))
    return sides[0], sides[1]


def _prompt(raw: Any, chosen: Messages, notices: list[Notice]) -> Messages:
    """What stands before both answers. Some files repeat in it, as text, what the answers' messages begin with."""
    if raw is None:
        return []
    if isinstance(raw, str):
        begins_with_it = any(message.get("content") == raw for message in chosen[:-1])
        return [] if begins_with_it else [{"role": "user", "content": raw}]
    return parse_messages(raw, notices, "prompt")[0]


def _content(side: Text) -> object:
    return side if isinstance(side, Passage) else side.messages


def _says_nothing(side: Text) -> bool:
    return not side.learnt.strip() if isinstance(side, Passage) else is_empty(side.messages[-1])
