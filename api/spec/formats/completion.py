"""Pairs of a prompt and a completion, `{"prompt": …, "completion": …}`, with texts or messages."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from api.spec.formats.base import Format, Row, RowWarning, Text
from api.spec.formats.chat import supervised_conversation
from api.spec.formats.exchange import EXCHANGE_KEYS, Exchange, parse_exchange
from api.spec.formats.prompt_parsing import has_empty_answer


class Completion(Format):
    """The prompt is used as it is, without a template. The completion and the end-of-text token after it are
    supervised.

    If the prompt or the completion are messages, or if the row has a system text, the base model's chat template
    renders them instead.
    """

    name: ClassVar[str] = "completion"
    title: ClassVar[str] = "fine-tune-completion"
    summary: ClassVar[str] = "Prompt and completion pairs, without a chat template."
    required: ClassVar[tuple[frozenset[str], ...]] = (
        frozenset({"prompt", "completion"}),
        frozenset({"prompt", "response"}),
    )
    optional: ClassVar[frozenset[str]] = EXCHANGE_KEYS
    example: ClassVar[Mapping[str, object]] = {"prompt": "The capital of France is", "completion": " Paris."}

    def parse(self, row: Row) -> Text:
        warnings = self.unknown_key_warnings(row)
        if row.get("completion") is not None and row.get("response"):
            warnings.append(RowWarning("ignored_key", "key 'response' is ignored beside 'completion'"))
        exchange = parse_exchange(row, warnings)
        if isinstance(exchange, Exchange):
            weights = [0.0] * len(exchange.prompt) + exchange.weights
            return supervised_conversation([*exchange.prompt, *exchange.answer], weights, exchange.tools, warnings)
        if has_empty_answer(exchange):
            warnings.append(
                RowWarning("empty_answer", "'completion' is empty, so the model learns to answer with nothing")
            )
        return replace(exchange, warnings=warnings)
