"""Texts with labels, `{"text": …, "label": …}`, or conversations with labels."""

import re
from collections.abc import Mapping
from typing import ClassVar

from api.spec.formats.base import (
    ClassificationExample,
    Format,
    Label,
    LabelKind,
    PromptCompletion,
    Row,
    RowError,
    RowWarning,
    json_type,
    parse_number,
    required_string,
    truncate,
)
from api.spec.formats.json_text import parse_json_text
from api.spec.formats.messages import parse_messages, parse_row_tools, unsupervised_conversation

PYTHON_LIST = re.compile(r"\[\s*(?:u?'|\"|[0-9]+(?:\.0?)?\s+[0-9])")
"""The beginning of a list that Python's str() wrote, or of an array that NumPy printed."""


class LabelledTexts(Format):
    """A text, or a conversation rendered by the chat template. Its label is a name, a number, several names, or one 0
    or 1 for each class."""

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
    example: ClassVar[Mapping[str, object]] = {"text": "What a film!", "label": "positive"}

    def parse(self, row: Row) -> ClassificationExample:
        warnings = self.unknown_key_warnings(row)
        label = _label(row["labels"] if row.get("label") is None else row["label"], warnings)
        if row.get("messages") is not None:
            if row.get("text"):
                warnings.append(RowWarning("ignored_key", "key 'text' is ignored beside 'messages'"))
            messages, _ = parse_messages(row["messages"], warnings)
            return ClassificationExample(
                unsupervised_conversation(messages, parse_row_tools({"tools": row.get("tools")}, warnings)),
                label,
                warnings,
            )
        text = required_string(row, "text")
        if not text.strip():
            raise RowError("'text' is empty, so there is nothing to classify", code="nothing_to_learn")
        return ClassificationExample(PromptCompletion(text, ""), label, warnings)


def _label(raw: object, warnings: list[RowWarning]) -> Label:
    """Return the label.

    Booleans become names; numbers stay numbers, because the labels of all rows decide whether they are names or values.
    """
    if isinstance(raw, str) and raw.lstrip().startswith("["):
        decoded = parse_json_text(raw)
        if isinstance(decoded, list) and not any(isinstance(entry, dict | list) for entry in decoded):
            warnings.append(RowWarning("json_text", "'label' is a text that holds JSON, and is read as a list"))
            raw = decoded
        elif decoded is None and PYTHON_LIST.match(raw.lstrip()):
            problem = f"'label' is a list in Python's notation: {truncate(raw)}; write it as JSON, with json.dumps"
            raise RowError(problem, code="invalid_label")
    if isinstance(raw, list):
        return _names(raw, warnings)
    if isinstance(raw, float):
        if parse_number(raw) is None:
            raise RowError("'label' is a number too large for float32", code="invalid_label")
        return raw
    return _name(raw)


def _names(raw: list[object], warnings: list[RowWarning]) -> Label:
    if len(raw) > 1 and all(isinstance(entry, bool | int | float) and entry in (0, 1) for entry in raw):
        return tuple(int(entry == 1) for entry in raw)
    if any(isinstance(entry, float) for entry in raw):
        raise RowError(
            "'label' is an array of numbers: give an array of names, or of one 0 or 1 for each class",
            code="invalid_label",
        )
    names = [str(_name(entry)) for entry in raw]
    if len(set(names)) < len(names):
        warnings.append(RowWarning("repeated_label", "'label' names a class twice"))
    return names


def _name(raw: object) -> str | int:
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, int):
        return raw
    if not isinstance(raw, str):
        raise RowError(
            f"'label' must be a text, a number, a boolean or an array of texts, not {json_type(raw)}",
            code="invalid_label",
        )
    if not raw.strip():
        raise RowError("'label' is empty", code="invalid_label")
    return raw


def warn_of_ignored_labels(format_name: str, row: Row) -> RowWarning | None:
    """Return a warning if a row with a label is read in a format of supervised training, which ignores it."""
    if format_name not in ("text", "chat") or not LabelledTexts().matches(row):
        return None
    return RowWarning(
        "ignored_labels",
        "These rows have labels, which supervised training ignores. To train a classifier, set `method.type` to "
        "classification (`--method classification`).",
    )
