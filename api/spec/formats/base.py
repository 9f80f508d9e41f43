"""The interface of a format of rows, and the examples that rows are parsed into."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from api.spec.fields import JsonObject

Row = JsonObject
Message = JsonObject
"""A message in the form that chat templates expect."""
Messages = list[Message]
MAX_SHOWN_KEYS = 10
MEDIA_KEYS = ("images", "videos", "audios", "image", "video", "audio")
"""Keys of media, for which a text has only a placeholder such as <image>. Rows with media are refused, because a model
trained without the media would learn to invent their content."""
OPENORCA_SYSTEM = "system_prompt"
"""The key of the system text in OpenOrca's rows, and in datasets derived from it."""
EMPTY: tuple[object, ...] = (None, "", [], {})
MAX_FLOAT32 = 3.4e38
NUMBER_TEXT = re.compile(r"\s*[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*")


class RowError(ValueError):
    """A row is invalid. Users read the message after a prefix such as "Example 12, "."""

    def __init__(self, message: str, *, code: str = "invalid_row") -> None:
        super().__init__(message)
        self.message = message
        self.code = code


@dataclass(frozen=True)
class RowWarning:
    """A remark on a valid row, for its author."""

    code: str
    message: str


@dataclass(frozen=True)
class Conversation:
    """Messages for a chat template, in the form that templates expect: arguments of tool calls are objects."""

    messages: Messages
    weights: list[float]
    """Weight of each message in the loss; 0 for all roles except the assistant."""
    tools: list[JsonObject] | None = None
    warnings: list[RowWarning] = field(default_factory=list)


@dataclass(frozen=True)
class PromptCompletion:
    """Plain text without a chat template. Only the completion is supervised."""

    prompt: str
    completion: str
    warnings: list[RowWarning] = field(default_factory=list)


@dataclass(frozen=True)
class ChatOrText:
    """One example in two forms: a conversation for base models with a chat template, and plain text for those without
    one."""

    conversation: Conversation
    plain: PromptCompletion
    warnings: list[RowWarning] = field(default_factory=list)


Text = Conversation | PromptCompletion | ChatOrText


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, the first preferred. Only the last answer of each conversation is compared."""

    chosen: Text
    rejected: Text
    margin: float | None = None
    """How much better the first answer is, in units of the reward."""
    warnings: list[RowWarning] = field(default_factory=list)


@dataclass(frozen=True)
class Unpaired:
    """One answer, good or bad."""

    answer: Text
    desirable: bool
    warnings: list[RowWarning] = field(default_factory=list)


Label = str | int | float | list[str] | tuple[int, ...]
"""The label of a text: a name, a number (a whole number may be a name, too), several names, or one 0 or 1 for each
class."""


@dataclass(frozen=True)
class ClassificationExample:
    """A text without supervised tokens, and its label."""

    document: Text
    label: Label
    warnings: list[RowWarning] = field(default_factory=list)


@dataclass(frozen=True)
class Prompt:
    """A prompt to answer, and the whole row for the grader of the answers."""

    prompt: Text
    item: Row
    warnings: list[RowWarning] = field(default_factory=list)


Example = Text | Pair | Unpaired | ClassificationExample | Prompt


LabelKind = Literal["class", "desirable", "margin"]
"""class: one name, several, or a number. desirable: whether an answer is good. margin: how much better one answer is
than the other; optional in a row."""


class Format(ABC):
    """A format is detected by its keys; `parse` validates a row and returns its example."""

    name: ClassVar[str]
    title: ClassVar[str]
    """The format's name in messages that follow OpenAI's wording."""
    summary: ClassVar[str]
    required: ClassVar[tuple[frozenset[str], ...]]
    """Sets of keys. A row that has all keys of one set has this format."""
    optional: ClassVar[frozenset[str]] = frozenset()
    """Other keys, which the format reads or knowingly ignores."""
    example: ClassVar[Mapping[str, object]]
    """A short valid row, for documentation and tests."""
    label_kind: ClassVar[LabelKind | None] = None
    """Kind of the rows' labels; None if the rows have no labels."""
    has_answers: ClassVar[bool] = True
    """Whether the rows have answers to train on."""

    @abstractmethod
    def parse(self, row: Row) -> Example:
        """Return the example in a row that has the format's keys. Raises RowError if the row is invalid."""

    @property
    def keys(self) -> frozenset[str]:
        """All keys that the format knows."""
        return frozenset().union(*self.required, self.optional)

    def matches(self, row: Row) -> bool:
        """Return whether the row has the keys of this format."""
        present = present_keys(row)
        return any(keys <= present for keys in self.required)

    def read_keys(self, row: Row) -> frozenset[str]:
        """Return the keys that are read from a matching row.

        These are the optional keys and one set of required keys, the first that the row has.
        """
        present = present_keys(row)
        used = next((keys for keys in self.required if keys <= present), frozenset())
        return used | self.optional

    def missing_key(self, row: Row) -> str | None:
        """Return the key that the row lacks if it has all other keys of one set of required keys; None if it lacks none
        or more than one."""
        present = present_keys(row)
        lacking = [sorted(keys - present) for keys in self.required if keys & present]
        return next((keys[0] for keys in lacking if len(keys) == 1), None)

    def read(self, row: Row) -> Example:
        """Return the example in a row of a file in this format. Raises RowError if the row is invalid or of another
        format."""
        if media := [key for key in MEDIA_KEYS if row.get(key)]:
            raise RowError(f"has '{media[0]}', but only text is supported", code="unsupported_content")
        if self.matches(row):
            return self._parse_openorca(row) if self._has_openorca_system(row) else self.parse(row)
        key = self.missing_key(row)
        if key is not None:
            raise RowError(f"key '{key}' is missing", code="missing_key")
        needed = " or ".join(" and ".join(sorted(keys)) for keys in self.required)
        problem = f"is not in the {self.title} format, in which this file is read: it needs {needed}. {keys_of(row)}"
        raise RowError(problem, code="mixed_formats")

    def _has_openorca_system(self, row: Row) -> bool:
        return "system" in self.keys and row.get("system") is None and isinstance(row.get(OPENORCA_SYSTEM), str)

    def _parse_openorca(self, row: Row) -> Example:
        example = self.parse(
            {("system" if key == OPENORCA_SYSTEM else key): row[key] for key in row if key != "system"}
        )
        if row[OPENORCA_SYSTEM]:
            example.warnings.append(RowWarning("system_key", f"key '{OPENORCA_SYSTEM}' is read as 'system'"))
        # The grader gets the row unchanged, with the file's own keys.
        return replace(example, item=row) if isinstance(example, Prompt) else example

    def unknown_key_warnings(self, row: Row) -> list[RowWarning]:
        return unread_key_warnings(row, self.keys)


def present_keys(row: Row) -> set[str]:
    """Return the keys whose value is not null. The rows of a table have all of its columns as keys, with null for
    missing values."""
    return {key for key, value in row.items() if value is not None}


def unread_key_warnings(row: Row, read: AbstractSet[str]) -> list[RowWarning]:
    """Return a warning for each key that is not read, except those with an empty value."""
    return [
        RowWarning("unknown_key", f"key '{truncate(key)}' is not part of the format and is ignored")
        for key in sorted(row.keys() - read)
        if row[key] not in EMPTY
    ]


def warn_once(warnings: list[RowWarning], code: str, message: str) -> None:
    """Add a warning unless the row already has one with the same code. A program that deviates from the format usually
    does so in every message of a row, and one warning is enough."""
    if all(warning.code != code for warning in warnings):
        warnings.append(RowWarning(code, message))


def truncate(text: object, limit: int = 60) -> str:
    """Return a user's text for use in a message: one line, printable, at most `limit` characters."""
    line = str(text)[: limit + 1]
    line = "".join(character if character.isprintable() else "�" for character in line)
    return line[:limit] + "…" if len(line) > limit else line


def keys_of(row: Row) -> str:
    """Return a sentence that names the keys of a row that matches no format."""
    if {"role", "content"} <= row.keys():
        return "The row is a single message. Put the messages of a conversation into {'messages': […]}."
    keys = ", ".join(truncate(key) for key in list(row)[:MAX_SHOWN_KEYS])
    return f"The row's keys are: {keys or 'none'}{', …' if len(row) > MAX_SHOWN_KEYS else ''}."


def required_string(row: Row, key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise RowError(f"'{key}' must be a string, not {json_type(value)}", code="invalid_type")
    return value


def optional_string(row: Row, key: str) -> str:
    """Return the string under the key; empty if the key is absent or null."""
    return required_string(row, key) if row.get(key) is not None else ""


def parse_number(value: object) -> float | None:
    """Return the value as a number; None if it is not a number, or one that float32 cannot hold. Text is accepted,
    because cells of tables are text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and not NUMBER_TEXT.fullmatch(value):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if abs(result) <= MAX_FLOAT32 else None


def json_type(value: object) -> str:
    """Return the value's JSON type for use in a message, such as "an object"."""
    names: dict[type, str] = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", int: "a number"}
    return "null" if value is None else names.get(type(value), "a number")
