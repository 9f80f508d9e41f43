"""Plain text: `{"text": …}`."""

from collections.abc import Mapping
from typing import ClassVar

from api.spec.formats.base import Format, PromptCompletion, Row, RowError, required_string


class Text(Format):
    """A whole document; every token is supervised."""

    name: ClassVar[str] = "text"
    title: ClassVar[str] = "fine-tune-text"
    summary: ClassVar[str] = "Plain documents, every token supervised."
    required: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"text"}),)
    example: ClassVar[Mapping[str, object]] = {"text": "Attune is a fine-tuning service you host yourself."}

    def parse(self, row: Row) -> PromptCompletion:
        text = required_string(row, "text")
        if not text:
            raise RowError("'text' is empty, so nothing in it can be trained on", code="nothing_to_learn")
        return PromptCompletion("", text, self.unknown_key_warnings(row))
