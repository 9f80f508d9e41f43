"""Single answers, each good or bad: `{"prompt": …, "completion": …, "label": true}`, with texts or messages."""

from collections.abc import Mapping
from typing import ClassVar

from api.spec.formats.alpaca import prompt_as_messages, prompt_as_text
from api.spec.formats.base import (
    Format,
    LabelKind,
    Row,
    RowError,
    RowWarning,
    Text,
    Unpaired,
    json_type,
    required_string,
    truncate,
)
from api.spec.formats.exchange import EXCHANGE_KEYS, Exchange, parse_exchange
from api.spec.formats.messages import order_warnings, parse_messages, parse_row_tools, train_on_last_answer, with_system
from api.spec.formats.prompt_parsing import CONVERSATIONS, ParsedPrompt, has_empty_answer, with_answer

TRUTH_TEXTS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
"""Booleans as tables and programs write them."""
ANSWER_KEYS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    *((key,) for key in CONVERSATIONS),
)
"""Keys of a prompt and its answer. A conversation has precedence; otherwise the first pair of keys that a row has is
read."""


class UnpairedAnswers(Format):
    """Single answers, each labelled good or bad. LLaMA-Factory's rows have the label under `kto_tag`, and may be
    conversations or instructions."""

    name: ClassVar[str] = "unpaired"
    label_kind: ClassVar[LabelKind | None] = "desirable"
    title: ClassVar[str] = "fine-tune-unpaired"
    summary: ClassVar[str] = "Single answers, each labelled good (true) or bad (false)."
    required: ClassVar[tuple[frozenset[str], ...]] = (
        *(frozenset({*keys, label}) for keys in ANSWER_KEYS for label in ("label", "kto_tag")),
    )
    optional: ClassVar[frozenset[str]] = EXCHANGE_KEYS | {"input", "history"}
    example: ClassVar[Mapping[str, object]] = {"prompt": "2 + 2 =", "completion": " 5", "label": False}

    def parse(self, row: Row) -> Unpaired:
        key = "label" if row.get("label") is not None else "kto_tag"
        label = row[key]
        if isinstance(label, str | int | float):
            label = TRUTH_TEXTS.get(str(label).strip().lower(), label)
        if not isinstance(label, bool):
            given = f"'{truncate(label)}'" if isinstance(label, str) else json_type(label)
            raise RowError(f"'{key}' must be true or false, not {given}", code="invalid_label")
        warnings = self.unknown_key_warnings(row)
        answer = _answer(row, warnings)
        if has_empty_answer(answer):
            warnings.append(RowWarning("empty_answer", "the answer is empty"))
        return Unpaired(answer, label, warnings)


def _answer(row: Row, warnings: list[RowWarning]) -> Text:
    for key in CONVERSATIONS:
        if row.get(key) is not None:
            warnings += _ignored(row, key)
            messages = with_system(row, parse_messages(row[key], warnings, key)[0], warnings)
            tools = parse_row_tools({"tools": row.get("tools")}, warnings)
            warnings += order_warnings(messages, tools)
            return train_on_last_answer(messages, tools, key)
    if row.get("prompt") is None:
        question = required_string(row, "instruction")
        prompt = ParsedPrompt(prompt_as_messages(row, question), prompt_as_text(row, question), frozenset())
        return with_answer(prompt, required_string(row, "output"))
    warnings += _ignored(row, "prompt")
    exchange = parse_exchange(row, warnings)
    if not isinstance(exchange, Exchange):
        return exchange
    messages = [*exchange.prompt, *exchange.answer]
    warnings += order_warnings(messages, exchange.tools)
    return train_on_last_answer(messages, exchange.tools, "completion")


def _ignored(row: Row, read: str) -> list[RowWarning]:
    """Return a warning for each key with another prompt or answer. These keys are ignored, because the answer is read
    from `read`."""
    first = next(keys for keys in ANSWER_KEYS if read in keys and all(row.get(key) is not None for key in keys))
    others = {key for keys in ANSWER_KEYS for key in keys if row.get(key)} - set(first)
    return [RowWarning("ignored_key", f"key '{key}' is ignored beside '{first[-1]}'") for key in sorted(others)]
