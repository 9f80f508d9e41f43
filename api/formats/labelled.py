"""Texts with labels: `{"text": …, "label": …}`, or messages in place of the text."""

from collections.abc import Mapping
from typing import Any, ClassVar

from api.formats.base import Format, Label, Labelled, Passage, Row, RowError, kind, number, required_string
from api.formats.messages import given, parse_messages, parse_row_tools


class LabelledTexts(Format):
    """A text, or a conversation as the chat template shows it; its label is a name, a number, or several names."""

    name: ClassVar[str] = "labelled"
    title: ClassVar[str] = "fine-tune-labelled"
    summary: ClassVar[str] = "Texts (or conversations), each with a label: a name, a list of names, or a number."
    required: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"text", "label"}), frozenset({"messages", "label"}))
    optional: ClassVar[frozenset[str]] = frozenset({"tools"})
    example: ClassVar[Mapping[str, Any]] = {"text": "What a film!", "label": "positive"}

    def parse(self, row: Row) -> Labelled:
        label, notices = _label(row["label"]), self.unknown_keys(row)
        if "messages" in row:
            messages, _ = parse_messages(row["messages"], notices)
            return Labelled(given(messages, parse_row_tools({"tools": row.get("tools")})), label, notices)
        text = required_string(row, "text")
        if not text.strip():
            raise RowError("'text' is empty, so there is nothing to label", code="nothing_to_learn")
        return Labelled(Passage(text, ""), label, notices)


def _label(raw: Any) -> Label:
    """Truth becomes a name; numbers stay numbers until the whole file is known."""
    if isinstance(raw, list):
        return [str(_name(entry)) for entry in raw]
    if isinstance(raw, float):
        if number(raw) is None:
            raise RowError("'label' is too large a number", code="invalid_label")
        return raw
    return _name(raw)


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
