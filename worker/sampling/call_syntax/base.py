"""The interface of a syntax in which chat templates write calls of functions."""

import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from api.spec.fields import JsonObject

Lark = Callable[[str], str]
"""Function that returns a text as terminals of a grammar in llguidance's dialect of Lark."""


@dataclass(frozen=True)
class FunctionCall:
    id: str
    name: str
    arguments: str
    """JSON of an object."""

    @classmethod
    def of(cls, name: str, arguments: JsonObject) -> "FunctionCall | None":
        """Return a call with a new id; None if the arguments are not JSON that can be sent: NaN, infinity, or half of a
        surrogate pair, which Python's decoder accepts."""
        try:
            text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
            (name + text).encode()
        except (ValueError, RecursionError):
            return None
        return cls(secrets.token_hex(5)[:9], name, text)


class Incomplete(Exception):
    """The text ends inside a call."""


class CallSyntax(ABC):
    @abstractmethod
    def find(self, text: str, name: str) -> tuple[int, int] | None:
        """Return where the call of the function `name` begins and ends in a rendered conversation; None if the text has
        no such call in this syntax."""

    @abstractmethod
    def parts(self, call: str, name: str) -> tuple[str, str, str]:
        """Return three parts of a call: the texts before the name, between name and arguments, and after the
        arguments."""

    @abstractmethod
    def read(self, text: str, schemas: Mapping[str, JsonObject]) -> tuple[FunctionCall, int] | None:
        """Return the call at the beginning of the text, and its length; None if the text does not begin with a call.

        `schemas`: {name of a function: JSON Schema of its arguments}. Raise Incomplete if the text ends inside a call.
        """

    @abstractmethod
    def argument_rules(self, rule: str, schema: JsonObject | None, lark: Lark, options: JsonObject) -> list[str]:
        """Return grammar rules for the arguments of a call. The first rule has the name `rule`.

        `schema`: the JSON Schema of the arguments; None: any arguments. `options`: llguidance's options for JSON. Raise
        ValueError if a grammar of this syntax cannot enforce the schema.
        """
