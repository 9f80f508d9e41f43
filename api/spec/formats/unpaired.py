"""Single answers, each good or bad: `{"prompt": …, "completion": …, "label": true}`, with texts or messages."""

from collections.abc import Mapping
from typing import Any, ClassVar

from api.spec.formats.alpaca import asked_as_chat, asked_as_text
from api.spec.formats.asked import Asked, as_text, says_nothing
from api.spec.formats.base import (
    Format,
    LabelKind,
    Row,
    RowError,
    RowWarning,
    Text,
    Unpaired,
    kind,
    required_string,
    truncate,
)
from api.spec.formats.exchange import EXCHANGE_KEYS, Exchange, parse_exchange
from api.spec.formats.messages import answered, order_notices, parse_messages, parse_row_tools, with_system

WRITTEN = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
"""Truth as tables and programs write it."""
CONVERSATIONS = ("messages", "conversations")
ANSWERED = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    *((key,) for key in CONVERSATIONS),
)
"""Keys of a prompt and its answer; of those that a row has, the conversation is read, else the first."""


class UnpairedAnswers(Format):
    """LLaMA-Factory's rows have `kto_tag` in place of `label`, and may be conversations or instructions, too."""

    name: ClassVar[str] = "unpaired"
    label_kind: ClassVar[LabelKind | None] = "desirable"
    title: ClassVar[str] = "fine-tune-unpaired"
    summary: ClassVar[str] = "Single answers, each labelled good (true) or bad (false)."
    required: ClassVar[tuple[frozenset[str], ...]] = (
        *(frozenset({*keys, label}) for keys in ANSWERED for label in ("label", "kto_tag")),
    )
    optional: ClassVar[frozenset[str]] = EXCHANGE_KEYS | {"input", "history"}
    example: ClassVar[Mapping[str, Any]] = {"prompt": "2 + 2 =", "completion": " 5", "label": False}

    def parse(self, row: Row) -> Unpaired:
        key = "label" if row.get("label") is not None else "kto_tag"
        label = row[key]
        if isinstance(label, str | int | float):
            label = WRITTEN.get(str(label).strip().lower(), label)
        if not isinstance(label, bool):
            given = f"'{truncate(label)}'" if isinstance(label, str) else kind(label)
            raise RowError(f"'{key}' must be true or false, not {given}", code="invalid_label")
        notices = self.unknown_keys(row)
        answer = _answer(row, notices)
        if says_nothing(answer):
            notices.append(RowWarning("empty_answer", "the answer is empty"))
        return Unpaired(answer, label, notices)


def _answer(row: Row, notices: list[RowWarning]) -> Text:
    for key in CONVERSATIONS:
        if row.get(key) is not None:
            notices += _ignored(row, key)
            messages = with_system(row, parse_messages(row[key], notices, key)[0], notices)
            tools = parse_row_tools({"tools": row.get("tools")}, notices)
            notices += order_notices(messages, tools)
            return answered(messages, tools, key)
    if row.get("prompt") is None:
        question = required_string(row, "instruction")
        asked = Asked(asked_as_chat(row, question), asked_as_text(row, question), frozenset())
        return as_text(asked, required_string(row, "output"))
    notices += _ignored(row, "prompt")
    if row.get("completion") is None:
        row = {**row, "completion": row["response"]}
        notices.append(RowWarning("answer_key", "key 'response' is read as the completion"))
    found = parse_exchange(row, notices)
    if not isinstance(found, Exchange):
        return found
    messages = [*found.given, *found.answer]
    notices += order_notices(messages, found.tools)
    return answered(messages, found.tools, "completion")


def _ignored(row: Row, read: str) -> list[RowWarning]:
    """Notices of the other answers that a row has beside the one under `read`."""
    first = next(keys for keys in ANSWERED if read in keys and all(row.get(key) is not None for key in keys))
    others = {key for keys in ANSWERED for key in keys if row.get(key)} - set(first)
    return [RowWarning("ignored_key", f"key '{key}' is ignored beside '{first[-1]}'") for key in sorted(others)]
