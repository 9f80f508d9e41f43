"""Single answers, each good or bad: `{"prompt": …, "completion": …, "label": true}`, with texts or messages."""

from collections.abc import Mapping
from typing import Any, ClassVar

from api.formats.base import Format, Notice, Passage, Row, RowError, Text, Unpaired, kind, required_string
from api.formats.messages import answered, is_empty, order_notices, parse_messages

WRITTEN = {"true": True, "false": False}
"""Truth as tables write it."""


class UnpairedAnswers(Format):
    name: ClassVar[str] = "unpaired"
    title: ClassVar[str] = "fine-tune-unpaired"
    summary: ClassVar[str] = "Single answers, each labelled good (true) or bad (false)."
    required: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"prompt", "completion", "label"}),)
    example: ClassVar[Mapping[str, Any]] = {"prompt": "2 + 2 =", "completion": " 5", "label": False}

    def parse(self, row: Row) -> Unpaired:
        label = row["label"]
        if isinstance(label, str):
            label = WRITTEN.get(label.strip().lower(), label)
        if not isinstance(label, bool):
            raise RowError(f"'label' must be true or false, not {kind(label)}", code="invalid_label")
        notices = self.unknown_keys(row)
        return Unpaired(self._answer(row, notices), label, notices)

    def _answer(self, row: Row, notices: list[Notice]) -> Text:
        prompt, completion = row["prompt"], row["completion"]
        if not isinstance(completion, list):
            passage = Passage(required_string(row, "prompt"), required_string(row, "completion"))
            if not passage.learnt.strip():
                notices.append(Notice("empty_answer", "'completion' is empty"))
            return passage
        given = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        messages = [
            *parse_messages(given, notices, "prompt")[0],
            *parse_messages(completion, notices, "completion")[0],
        ]
        notices += order_notices(messages)
        if is_empty(messages[-1]):
            notices.append(Notice("empty_answer", "the answer is empty"))
        return answered(messages, None, "completion")
