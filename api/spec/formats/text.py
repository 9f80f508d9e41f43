"""Plain text: `{"text": …}`."""

from collections.abc import Mapping
from typing import Any, ClassVar

from api.spec.formats.base import Format, PromptCompletion, Row, RowError, required_string


class Text(Format):
    """A document from its beginning to its end; every token is learnt."""

    name: ClassVar[str] = "text"
    title: ClassVar[str] = "fine-tune-text"
    summary: ClassVar[str] = "Plain documents, learnt whole."
    required: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"text"}),)
    example: ClassVar[Mapping[str, Any]] = {"text": "Attune is a fine-tuning service you host yourself."}

    def parse(self, row: Row) -> PromptCompletion:
        text = required_string(row, "text")
        if not text:
            raise RowError("'text' is empty, so there is nothing to learn", code="nothing_to_learn")
        return PromptCompletion("", text, self.unknown_keys(row))
