"""Single answers, each good or bad: `{"prompt": …, "completion": …, "label": true}`, with texts or messages."""

from collections.abc import Mapping
from typing import Any, ClassVar

from api.formats.asked import says_nothing
from api.formats.base import Format, Notice, Row, RowError, Unpaired, kind
from api.formats.exchange import EXCHANGE_KEYS, Exchange, parse_exchange
from api.formats.messages import answered, is_empty, order_notices

WRITTEN = {"true": True, "false": False}
"""Truth as tables write it."""


class UnpairedAnswers(Format):
    name: ClassVar[str] = "unpaired"
    title: ClassVar[str] = "fine-tune-unpaired"
    summary: ClassVar[str] = "Single answers, each labelled good (true) or bad (false)."
    required: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"prompt", "completion", "label"}),)
    optional: ClassVar[frozenset[str]] = EXCHANGE_KEYS
    example: ClassVar[Mapping[str, Any]] = {"prompt": "2 + 2 =", "completion": " 5", "label": False}

    def parse(self, row: Row) -> Unpaired:
        label = row["label"]
        if isinstance(label, str):
            label = WRITTEN.get(label.strip().lower(), label)
        if not isinstance(label, bool):
            raise RowError(f"'label' must be true or false, not {kind(label)}", code="invalid_label")
        notices = self.unknown_keys(row)
        found = parse_exchange(row, notices)
        if isinstance(found, Exchange):
            messages = [*found.given, *found.answer]
            notices += order_notices(messages)
            if is_empty(messages[-1]):
                notices.append(Notice("empty_answer", "the answer is empty"))
            return Unpaired(answered(messages, found.tools, "completion"), label, notices)
        if says_nothing(found):
            notices.append(Notice("empty_answer", "'completion' is empty"))
        return Unpaired(found, label, notices)
