"""The catalogue of formats: what a row is. A new one is a file here and a name in the tuple below."""

from api.formats.base import Conversation, Example, Format, Notice, Passage, Row, RowError
from api.formats.chat import Chat
from api.formats.completion import Completion
from api.formats.text import Text

FORMATS: dict[str, Format] = {entry.name: entry for entry in (Chat(), Completion(), Text())}


def detect(row: Row) -> str | None:
    """The name of the format that the row's keys show, None if they show none."""
    return next((name for name, entry in FORMATS.items() if entry.required <= row.keys()), None)


__all__ = ["FORMATS", "Conversation", "Example", "Format", "Notice", "Passage", "Row", "RowError", "detect"]
