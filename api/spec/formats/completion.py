"""Prompt and completion pairs: `{"prompt": …, "completion": …}`, with texts or messages."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from api.spec.formats.asked import says_nothing
from api.spec.formats.base import Format, Row, RowWarning, Text
from api.spec.formats.chat import conversation
from api.spec.formats.exchange import EXCHANGE_KEYS, Exchange, parse_exchange


class Completion(Format):
    """The prompt is given as it is, without a template; the completion and the end of text after it are learnt.

    Messages, and a prompt beside a system text, are rendered by the base model's template.
    """

    name: ClassVar[str] = "completion"
    title: ClassVar[str] = "fine-tune-completion"
    summary: ClassVar[str] = "Prompt and completion pairs, without a chat template."
    required: ClassVar[tuple[frozenset[str], ...]] = (
        frozenset({"prompt", "completion"}),
        frozenset({"prompt", "response"}),
    )
    optional: ClassVar[frozenset[str]] = EXCHANGE_KEYS
    example: ClassVar[Mapping[str, Any]] = {"prompt": "The capital of France is", "completion": " Paris."}

    def parse(self, row: Row) -> Text:
        notices = self.unknown_keys(row)
        if row.get("completion") is None:
            row = {**row, "completion": row["response"]}
            notices.append(RowWarning("answer_key", "key 'response' is read as the completion"))
        elif row.get("response"):
            notices.append(RowWarning("ignored_key", "key 'response' is ignored beside 'completion'"))
        found = parse_exchange(row, notices)
        if isinstance(found, Exchange):
            weights = [0.0] * len(found.given) + found.weights
            return conversation([*found.given, *found.answer], weights, found.tools, notices)
        if says_nothing(found):
            notices.append(RowWarning("empty_answer", "'completion' is empty: the model learns to say nothing here"))
        return replace(found, notices=notices)
