"""The catalogue of row formats: the sets of keys that a row of a file may have.

To add a format, add a file to this folder and its class to FORMATS.
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
"""The formats by name. Formats that require more keys come first, because a row with all of these keys most likely has
that format."""
KEYS: frozenset[str] = frozenset().union(*(entry.keys for entry in FORMATS.values()))
"""Every key that at least one format reads."""


def detect(row: Row, preferred: Collection[str] = ()) -> str | None:
    """Return the name of the format that the row's keys fit, or None if they fit none.

    If the keys fit several formats, those in `preferred` (the formats that the job's method accepts) have precedence.
    """
    matching = [name for name, entry in FORMATS.items() if entry.matches(row)]
    return next((name for name in matching if name in preferred), matching[0] if matching else None)


def possible_formats(row: Row) -> list[Format]:
    """Return the formats that the row may have, whatever the method. A format that reads only some of the keys that
    another possible format reads is left out: a row with a prompt and a completion has the format `completion`, not
    `prompts`."""
    known = {name: present_keys(row) & entry.read_keys(row) for name, entry in FORMATS.items() if entry.matches(row)}
    return [FORMATS[name] for name, keys in known.items() if not any(keys < more for more in known.values())]


def closest_format(row: Row, preferred: Collection[str]) -> tuple[str, str] | None:
    """Return (format, key) for a format in `preferred` that only lacks this key in the row, if the row has more keys of
    this format than of the format that it fits now. Return None if there is no such format."""
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
