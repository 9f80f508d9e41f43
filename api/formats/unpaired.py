"""Single answers, each good or bad: `{"prompt": …, "completion": …, "label": true}`, with texts or messages."""

from collections.abc import Mapping
from typing import Any, ClassVar

from api.formats.alpaca import asked_as_chat, asked_as_text
from api.formats.asked import Asked, as_text, says_nothing
from api.formats.base import Format, Notice, Row, RowError, Text, Unpaired, kind, required_string
from api.formats.exchange import EXCHANGE_KEYS, Exchange, parse_exchange
from api.formats.messages import answered, order_notices, parse_messages, parse_row_tools, with_system

WRITTEN = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
"""Truth as tables and programs write it."""
CONVERSATIONS = ("messages", "conversations")


class UnpairedAnswers(Format):
    """LLaMA-Factory's rows have `kto_tag` in place of `label`, and may be conversations or instructions, too."""

    name: ClassVar[str] = "unpaired"
    title: ClassVar[str] = "fine-tune-unpaired"
    summary: ClassVar[str] = "Single answers, each labelled good (true) or bad (false)."
    required: ClassVar[tuple[frozenset[str], ...]] = (
        frozenset({"prompt", "completion", "label"}),
        frozenset({"prompt", "completion", "kto_tag"}),
        frozenset({"instruction", "output", "kto_tag"}),
        *(frozenset({key, "kto_tag"}) for key in CONVERSATIONS),
    )
    optional: ClassVar[frozenset[str]] = EXCHANGE_KEYS | {"input", "history"}
    example: ClassVar[Mapping[str, Any]] = {"prompt": "2 + 2 =", "completion": " 5", "label": False}

    def parse(self, row: Row) -> Unpaired:
        key = "label" if row.get("label") is not None else "kto_tag"
        label = row[key]
        if isinstance(label, str | int | float):
            label = WRITTEN.get(str(label).strip().lower(), label)
        if not isinstance(label, bool):
            raise RowError(f"'{key}' must be true or false, not {kind(label)}", code="invalid_label")
        notices = self.unknown_keys(row)
        answer = _answer(row, notices)
        if says_nothing(answer):
            notices.append(Notice("empty_answer", "the answer is empty"))
        return Unpaired(answer, label, notices)


def _answer(row: Row, notices: list[Notice]) -> Text:
    for key in CONVERSATIONS:
        if row.get(key) is not None:
            messages = with_system(row, parse_messages(row[key], notices, key)[0], notices)
            tools = parse_row_tools({"tools": row.get("tools")}, notices)
            notices += order_notices(messages, tools)
            return answered(messages, tools, key)
    if row.get("prompt") is None:
        question = required_string(row, "instruction")
        asked = Asked(asked_as_chat(row, question), asked_as_text(row, question), frozenset())
        return as_text(asked, required_string(row, "output"))
    found = parse_exchange(row, notices)
    if not isinstance(found, Exchange):
        return found
    messages = [*found.given, *found.answer]
    notices += order_notices(messages, found.tools)
    return answered(messages, found.tools, "completion")
