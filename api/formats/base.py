"""What every format of rows says of itself, and the two things that a row can become. Torch-free, template-free."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

Row = dict[str, Any]


class RowError(ValueError):
    """What is wrong with a row, in words that follow "Example 12, " in a message to the user."""

    def __init__(self, message: str, *, code: str = "invalid_row") -> None:
        super().__init__(message)
        self.message = message
        self.code = code


@dataclass(frozen=True)
class Notice:
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
    notices: list[Notice] = field(default_factory=list)


@dataclass(frozen=True)
class Passage:
    """Plain text, no template: `given` is what the model sees, `learnt` what it learns to continue it with."""

    given: str
    learnt: str
    notices: list[Notice] = field(default_factory=list)


Example = Conversation | Passage


class Format(ABC):
    """A format is recognised by its keys; `parse` checks a row of it and says what the row means."""

    name: ClassVar[str]
    title: ClassVar[str]
    """As OpenAI's messages call it."""
    summary: ClassVar[str]
    required: ClassVar[frozenset[str]]
    """A row that has these keys is meant to be of this format."""
    optional: ClassVar[frozenset[str]] = frozenset()
    example: ClassVar[Mapping[str, Any]]
    """A short valid row, for documentation and tests."""

    @abstractmethod
    def parse(self, row: Row) -> Example:
        """The row's meaning; RowError if it has none."""

    def unknown_keys(self, row: Row) -> list[Notice]:
        unknown = sorted(row.keys() - self.required - self.optional)
        return [
            Notice("unknown_key", f"key '{shown(key)}' is not part of the format and is ignored") for key in unknown
        ]


def shown(text: object, limit: int = 60) -> str:
    """A user's text as it may stand in a message: one line, printable, short."""
    line = str(text)[: limit + 1]
    line = "".join(character if character.isprintable() else "�" for character in line)
    return line[:limit] + "…" if len(line) > limit else line


def required_string(row: Row, key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise RowError(f"'{key}' must be a string, not {kind(value)}", code="invalid_type")
    return value


def kind(value: object) -> str:
    """A value's type by its JSON name."""
    names: dict[type, str] = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", int: "a number"}
    return "null" if value is None else names.get(type(value), "a number")
