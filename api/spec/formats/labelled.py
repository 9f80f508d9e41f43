"""Texts with labels: `{"text": …, "label": …}`, or messages in place of the text."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from api.spec.formats.base import (
    ClassificationExample,
    Format,
    Label,
    LabelKind,
    PromptCompletion,
    Row,
    RowError,
    RowWarning,
    kind,
    number,
    required_string,
    truncate,
)
from api.spec.formats.messages import given, parse_messages, parse_row_tools
from api.spec.formats.structured import structure_in

PYTHON_LIST = re.compile(r"\[\s*(?:u?'|\"|[0-9]+(?:\.0?)?\s+[0-9])")
"""How a list of names begins where str() wrote it, or an array of numbers where NumPy did."""


class LabelledTexts(Format):
    """A text, or a conversation as the chat template shows it; its label is a name, a number, several names, or a zero
    or one for each class."""

    name: ClassVar[str] = "labelled"
    label_kind: ClassVar[LabelKind | None] = "class"
    has_answers: ClassVar[bool] = False
    title: ClassVar[str] = "fine-tune-labelled"
    summary: ClassVar[str] = (
        "Texts (or conversations), each with a label: a name, a list of names or of zeros and ones, or a number."
    )
    required: ClassVar[tuple[frozenset[str], ...]] = tuple(
        frozenset({document, label}) for label in ("label", "labels") for document in ("text", "messages")
    )
    optional: ClassVar[frozenset[str]] = frozenset({"tools"})
    example: ClassVar[Mapping[str, Any]] = {"text": "What a film!", "label": "positive"}

    def parse(self, row: Row) -> ClassificationExample:
        notices = self.unknown_keys(row)
        label = _label(row["labels"] if row.get("label") is None else row["label"], notices)
        if row.get("messages") is not None:
            if row.get("text"):
                notices.append(RowWarning("ignored_key", "key 'text' is ignored beside 'messages'"))
            messages, _ = parse_messages(row["messages"], notices)
            return ClassificationExample(
                given(messages, parse_row_tools({"tools": row.get("tools")}, notices)), label, notices
            )
        text = required_string(row, "text")
        if not text.strip():
            raise RowError("'text' is empty, so there is nothing to label", code="nothing_to_learn")
        return ClassificationExample(PromptCompletion(text, ""), label, notices)


def _label(raw: Any, notices: list[RowWarning]) -> Label:
    """Truth becomes a name; numbers stay numbers until the whole file is known."""
    if isinstance(raw, str) and raw.lstrip().startswith("["):
        held = structure_in(raw)
        if isinstance(held, list) and not any(isinstance(entry, dict | list) for entry in held):
            notices.append(
                RowWarning("json_text", "'label' is a text that holds a list as JSON, and is read as that list")
            )
            raw = held
        elif held is None and PYTHON_LIST.match(raw.lstrip()):
            problem = f"'label' is a list as Python shows it, not as JSON: {truncate(raw)}; write it with json.dumps"
            raise RowError(problem, code="invalid_label")
    if isinstance(raw, list):
        return _names(raw, notices)
    if isinstance(raw, float):
        if number(raw) is None:
            raise RowError("'label' is too large a number", code="invalid_label")
        return raw
    return _name(raw)


def _names(raw: list[Any], notices: list[RowWarning]) -> Label:
    if len(raw) > 1 and all(isinstance(entry, bool | int | float) and entry in (0, 1) for entry in raw):
        return tuple(int(entry) for entry in raw)
    if any(isinstance(entry, float) for entry in raw):
        raise RowError(
            "'label' is an array of numbers: only zeros and ones for each class, or names, can be learnt",
            code="invalid_label",
        )
    names = [str(_name(entry)) for entry in raw]
    if len(set(names)) < len(names):
        notices.append(RowWarning("repeated_label", "'label' names a class twice"))
    return names


def _name(raw: Any) -> str | int:
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, int):
        return raw
    if not isinstance(raw, str):
        raise RowError(
            f"'label' must be a text, a number, a boolean or an array of texts, not {kind(raw)}", code="invalid_label"
        )
    if not raw.strip():
        raise RowError("'label' is empty", code="invalid_label")
    return raw
