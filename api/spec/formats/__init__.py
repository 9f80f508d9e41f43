"""The catalogue of formats: what a row is. A new one is a file here and a name in the tuple below."""

from collections.abc import Collection

from api.spec.formats.base import (
    ChatOrText,
    ClassificationExample,
    Conversation,
    Example,
    Format,
    Label,
    Pair,
    Prompt,
    PromptCompletion,
    Row,
    RowError,
    RowWarning,
    Text,
    Unpaired,
    given_keys,
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
"""Those that ask for more keys come first: a row that has them all is most likely meant so."""
KEYS: frozenset[str] = frozenset().union(*(entry.keys for entry in FORMATS.values()))
"""Every key that some format reads."""


def detect(row: Row, preferred: Collection[str] = ()) -> str | None:
    """The name of the format that the row's keys show, None if they show none.

    Keys may fit several formats; one that is `preferred`, as the job's method takes it, goes first.
    """
    found = [name for name, entry in FORMATS.items() if entry.matches(row)]
    return next((name for name in found if name in preferred), found[0] if found else None)


def fitting(row: Row) -> list[Format]:
    """The formats that the row may be in, whatever the method, without those that read only a part of what another
    reads: a pair of a prompt and a completion is no prompt alone."""
    known = {name: given_keys(row) & entry.read_keys(row) for name, entry in FORMATS.items() if entry.matches(row)}
    return [FORMATS[name] for name, keys in known.items() if not any(keys < more for more in known.values())]


def closest_format(row: Row, preferred: Collection[str]) -> tuple[str, str] | None:
    """(format, key): the row would be of that preferred format with that key, and of no other format so nearly."""
    whole, present = detect(row, preferred), given_keys(row)
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
    "Label",
    "Pair",
    "Prompt",
    "PromptCompletion",
    "Row",
    "RowError",
    "RowWarning",
    "Text",
    "Unpaired",
    "almost",
    "detect",
    "fitting",
    "given_keys",
]
