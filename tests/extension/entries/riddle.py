from collections.abc import Mapping
from typing import Any, ClassVar

from api.spec.formats.base import Format, PromptCompletion, Row, required_string


class Riddle(Format):
    """A riddle, and what is meant."""

    name: ClassVar[str] = "riddle"
    title: ClassVar[str] = "fine-tune-riddle"
    summary: ClassVar[str] = "Riddles and their solutions."
    required: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"riddle", "solution"}),)
    example: ClassVar[Mapping[str, Any]] = {"riddle": "What has keys and opens no lock?", "solution": " A piano."}

    def parse(self, row: Row) -> PromptCompletion:
        return PromptCompletion(
            required_string(row, "riddle"), required_string(row, "solution"), self.unknown_key_warnings(row)
        )
