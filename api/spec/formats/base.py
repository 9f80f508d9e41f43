"""What every format of rows says of itself, and what a row of it can mean. Torch-free, template-free."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

Row = dict[str, Any]
MEDIA_KEYS = ("images", "videos", "audios", "image", "video", "audio")
"""Keys of what a text shows by a placeholder such as <image>: without it, a model learns to make it up."""
OTHER_SYSTEM = "system_prompt"
"""The key of a system text in OpenOrca's rows and those made after them."""
EMPTY: tuple[Any, ...] = (None, "", [], {})
MAX_FLOAT32 = 3.4e38
WRITTEN_NUMBER = re.compile(r"\s*[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*")


class RowError(ValueError):
    """What is wrong with a row, in words that follow "Example 12, " in a message to the user."""

    def __init__(self, message: str, *, code: str = "invalid_row") -> None:
        super().__init__(message)
        self.message = message
        self.code = code


@dataclass(frozen=True)
class RowWarning:
    """Something about a row that does not make it invalid, and that its author should know."""

    code: str
    message: str


@dataclass(frozen=True)
class Conversation:
    """Messages for a chat template, in the shape that templates expect (arguments of tool calls are objects)."""

    messages: list[dict[str, Any]]
    weights: list[float]
    """One for each message: the weight in the loss of what the assistant says there; 0 for everyone else."""
    tools: list[dict[str, Any]] | None = None
    notices: list[RowWarning] = field(default_factory=list)


@dataclass(frozen=True)
class PromptCompletion:
    """Plain text, no template: `given` is what the model sees, `learnt` what it learns to continue it with."""

    given: str
    learnt: str
    notices: list[RowWarning] = field(default_factory=list)


@dataclass(frozen=True)
class ChatOrText:
    """A conversation where the base model has a chat template, else a passage."""

    conversation: Conversation
    passage: PromptCompletion
    notices: list[RowWarning] = field(default_factory=list)


Text = Conversation | PromptCompletion | ChatOrText


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, of which the first is preferred; the last answer of each is what is compared."""

    chosen: Text
    rejected: Text
    margin: float | None = None
    """By how much the first is better, in the units of a reward."""
    notices: list[RowWarning] = field(default_factory=list)


@dataclass(frozen=True)
class Unpaired:
    """One answer, good or bad."""

    answer: Text
    desirable: bool
    notices: list[RowWarning] = field(default_factory=list)


Label = str | int | float | list[str] | tuple[int, ...]
"""A name, a number (which may be a name as well if it is whole), several names, or a zero or one for each class."""


@dataclass(frozen=True)
class ClassificationExample:
    """A text that is only read, and what is to be said of it."""

    document: Text
    label: Label
    notices: list[RowWarning] = field(default_factory=list)


@dataclass(frozen=True)
class Prompt:
    """Something to answer, and the whole row for whoever judges the answers."""

    given: Text
    item: Row
    notices: list[RowWarning] = field(default_factory=list)


Example = Text | Pair | Unpaired | ClassificationExample | Prompt


LabelKind = Literal["class", "desirable", "margin"]
"""class: the name of a class, several, or a number. desirable: whether an answer is good. margin: by how much an answer
is better than another, which a row may leave out."""


class Format(ABC):
    """A format is recognised by its keys; `parse` checks a row of it and says what the row means."""

    name: ClassVar[str]
    title: ClassVar[str]
    """As OpenAI's messages call it."""
    summary: ClassVar[str]
    required: ClassVar[tuple[frozenset[str], ...]]
    """A row that has all keys of one of these sets is meant to be of this format."""
    optional: ClassVar[frozenset[str]] = frozenset()
    """Further keys that are read, or known and ignored."""
    example: ClassVar[Mapping[str, Any]]
    """A short valid row, for documentation and tests."""
    label_kind: ClassVar[LabelKind | None] = None
    """What the rows are labelled with; None: they have no labels."""
    has_answers: ClassVar[bool] = True
    """The rows hold answers to learn."""

    @abstractmethod
    def parse(self, row: Row) -> Example:
        """The row's meaning; RowError if it has none."""

    @property
    def keys(self) -> frozenset[str]:
        """All that it knows."""
        return frozenset().union(*self.required, self.optional)

    def matches(self, row: Row) -> bool:
        present = given_keys(row)
        return any(keys <= present for keys in self.required)

    def read_keys(self, row: Row) -> frozenset[str]:
        """Keys that a row which matches is read from: other ways to write the same are not read beside them."""
        present = given_keys(row)
        used = next((keys for keys in self.required if keys <= present), frozenset())
        return used | self.optional

    def missing_key(self, row: Row) -> str | None:
        """The key without which the row is not of this format, if it has some of it and lacks only one."""
        present = given_keys(row)
        lacking = [sorted(keys - present) for keys in self.required if keys & present]
        return next((keys[0] for keys in lacking if len(keys) == 1), None)

    def read(self, row: Row) -> Example:
        """The meaning of a row of a file that is in this format. Raise RowError if it has none, or another format."""
        if media := [key for key in MEDIA_KEYS if row.get(key)]:
            raise RowError(f"has '{media[0]}', and only text can be learnt from yet", code="unsupported_content")
        if self.matches(row):
            return self._parse_renamed(row) if self._names_system_otherwise(row) else self.parse(row)
        key = self.missing_key(row)
        if key is not None:
            raise RowError(f"key '{key}' is missing", code="missing_key")
        raise RowError(f"is not in the {self.title} format, as the others are", code="mixed_formats")

    def _names_system_otherwise(self, row: Row) -> bool:
        return "system" in self.keys and row.get("system") is None and isinstance(row.get(OTHER_SYSTEM), str)

    def _parse_renamed(self, row: Row) -> Example:
        example = self.parse({("system" if key == OTHER_SYSTEM else key): row[key] for key in row if key != "system"})
        if row[OTHER_SYSTEM]:
            example.notices.append(RowWarning("system_key", f"key '{OTHER_SYSTEM}' is read as 'system'"))
        # A grader finds the row as it was written.
        return replace(example, item=row) if isinstance(example, Prompt) else example

    def unknown_keys(self, row: Row) -> list[RowWarning]:
        return ignored_keys(row, self.keys)


def given_keys(row: Row) -> set[str]:
    """Keys with a value: null stands for none, as in a row of a table that has the columns of all rows."""
    return {key for key, value in row.items() if value is not None}


def ignored_keys(row: Row, read: AbstractSet[str]) -> list[RowWarning]:
    """Notices of the keys that are not read, but for those that hold nothing."""
    return [
        RowWarning("unknown_key", f"key '{truncate(key)}' is not part of the format and is ignored")
        for key in sorted(row.keys() - read)
        if row[key] not in EMPTY
    ]


def notice_once(notices: list[RowWarning], code: str, message: str) -> None:
    """Add a notice, unless the row has one of the kind: what a program writes one way it writes so throughout."""
    if all(notice.code != code for notice in notices):
        notices.append(RowWarning(code, message))


def truncate(text: object, limit: int = 60) -> str:
    """A user's text as it may stand in a message: one line, printable, short."""
    line = str(text)[: limit + 1]
    line = "".join(character if character.isprintable() else "�" for character in line)
    return line[:limit] + "…" if len(line) > limit else line


def required_string(row: Row, key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise RowError(f"'{key}' must be a string, not {kind(value)}", code="invalid_type")
    return value


def optional_string(row: Row, key: str) -> str:
    """Empty where it is absent or null."""
    return required_string(row, key) if row.get(key) is not None else ""


def number(value: object) -> float | None:
    """A number that 32 bits can hold, or one written as text, as cells of a table are; None if it is neither."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and not WRITTEN_NUMBER.fullmatch(value):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if abs(result) <= MAX_FLOAT32 else None


def kind(value: object) -> str:
    """A value's type by its JSON name."""
    names: dict[type, str] = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", int: "a number"}
    return "null" if value is None else names.get(type(value), "a number")
