"""The catalogue of row formats: the sets of keys that a row of a file may have.

To add one, add a file here and a name to the tuple.
"""

from collections.abc import Collection

from api.spec.fields import JsonObject
from api.spec.formats.base import (
    ChatOrText,
    ClassificationExample,
    Conversation,
    Example,
    Format,
    Label,
    Message,
    Messages,
    Pair,
    Prompt,
    PromptCompletion,
    Row,
    RowError,
    RowWarning,
    Text,
    Unpaired,
    present_keys,
)
from api.spec.formats.chat import Chat
from api.spec.formats.completion import Completion
from api.spec.formats.instruction import Instruction
from api.spec.formats.labelled import LabelledTexts
from api.spec.formats.preference import Preference
from api.spec.formats.prompts import Prompts
from api.spec.formats.sharegpt import ShareGpt
from api.spec.formats.text import Text as PlainText
from api.spec.formats.unpaired import UnpairedAnswers

FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Preference(),
        UnpairedAnswers(),
        LabelledTexts(),
        Chat(),
        ShareGpt(),
        Instruction(),
        Completion(),
        PlainText(),
        Prompts(),
    )
}
"""Formats that require more keys come first: a row with all of them is most likely of that format."""
KEYS: frozenset[str] = frozenset().union(*(entry.keys for entry in FORMATS.values()))
"""Every key that at least one format reads."""


def detect(row: Row, preferred: Collection[str] = ()) -> str | None:
    """Return the name of the format that the row's keys fit, or None if they fit none.

    If the keys fit several formats, one in `preferred`, the formats that the job's method accepts, has precedence.
    """
    matching = [name for name, entry in FORMATS.items() if entry.matches(row)]
    return next((name for name in matching if name in preferred), matching[0] if matching else None)


def possible_formats(row: Row) -> list[Format]:
    """Return the formats that the row may have, whatever the method. A format that reads only some of the keys that
    another possible format reads is left out: a row with a prompt and a completion is not a prompt alone."""
    known = {name: present_keys(row) & entry.read_keys(row) for name, entry in FORMATS.items() if entry.matches(row)}
    return [FORMATS[name] for name, keys in known.items() if not any(keys < more for more in known.values())]


def closest_format(row: Row, preferred: Collection[str]) -> tuple[str, str] | None:
    """Return (format, key) if the row would have the format, which is one of `preferred`, with one more key, and if no
    other format reads as many keys of the row. Return None otherwise."""
    whole, present = detect(row, preferred), present_keys(row)
    known = 0 if whole is None else len(present & FORMATS[whole].keys)
    for name, entry in FORMATS.items():
        key = entry.missing_key(row)
        if name in preferred and key is not None and len(present & entry.keys) > known:
            return name, key
    return None


__all__ = [
    "FORMATS",
    "KEYS",
    "ChatOrText",
    "ClassificationExample",
    "Conversation",
    "Example",
    "Format",
    "JsonObject",
    "Label",
    "Message",
    "Messages",
    "Pair",
    "Prompt",
    "PromptCompletion",
    "Row",
    "RowError",
    "RowWarning",
    "Text",
    "Unpaired",
    "closest_format",
    "detect",
    "possible_formats",
    "present_keys",
]
