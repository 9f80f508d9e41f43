"""Invisible marks around what is said in a conversation: characters from Unicode's private-use planes.

They survive rendering by a chat template, are found in what it rendered, and are taken out again.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from api.spec.formats import RowError
from worker.rows.reasoning import CLOSING, typed_in

PLANES = ((0xF0000, 0xFFFFD), (0x100000, 0x10FFFD), (0xE000, 0xF8FF))
"""Private-use code points, (first, last); the first plane that a conversation does not use itself is taken."""
PATTERNS = {first: re.compile(f"[{chr(first)}-{chr(last)}]") for first, last in PLANES}

OF_MESSAGE = 3
"""Marks of each message, those of its calls aside."""

Messages = list[dict[str, Any]]
Places = dict[str, list[int]]
"""Mark to where it stood in the text."""


@dataclass(frozen=True)
class Sentinels:
    """One code point each: the template's generation begins, ends; a message's text begins, ends, its reasoning begins;
    each of its calls has one mark after the name, and one after every string in the arguments."""

    first: int
    starts: tuple[int, ...]
    """Marks before those of each message; the last entry counts all of them."""

    @classmethod
    def absent_from(cls, text: str, messages: Messages) -> "Sentinels":
        counts = [2, *(OF_MESSAGE + 2 * len(message.get("tool_calls", ())) for message in messages)]
        starts = tuple(itertools.accumulate(counts))
        for first, last in PLANES:
            if last - first >= starts[-1] and not PATTERNS[first].search(text):
                return cls(first, starts)
        raise RowError(
            "uses characters of every private-use plane of Unicode, or has more tool calls than can be told apart",
            code="private_use_characters",
        )

    @property
    def generation(self) -> tuple[str, str]:
        return chr(self.first), chr(self.first + 1)

    def opening(self, message: int) -> str:
        return self._mark(message, 0)

    def closing(self, message: int) -> str:
        return self._mark(message, 1)

    def reasoning(self, message: int) -> str:
        return self._mark(message, 2)

    def call(self, message: int, number: int) -> tuple[str, str]:
        """What stands after the name of that tool call, and after each string in its arguments."""
        first = OF_MESSAGE + 2 * number
        return self._mark(message, first), self._mark(message, first + 1)

    def calls(self, message: int) -> list[str]:
        """The marks of all tool calls of the message."""
        return [chr(self.first + at) for at in range(self.starts[message] + OF_MESSAGE, self.starts[message + 1])]

    def put(self, messages: Messages, everyone: bool) -> Messages:
        """The messages with the assistant's answers and calls marked, and the ends of what others say."""
        return [
            self._put_answer(index, message)
            if message["role"] == "assistant"
            else {**message, "content": _around(message["content"], "", self.closing(index))}
            if everyone
            else message
            for index, message in enumerate(messages)
        ]

    def take_out(self, marked: str) -> tuple[str, Places]:
        """The text without marks, and the places in it where each mark stood."""
        places: Places = defaultdict(list)
        pattern = PATTERNS[self.first]
        for taken, match in enumerate(pattern.finditer(marked)):
            places[match.group()].append(match.start() - taken)
        return pattern.sub("", marked), dict(places)

    def _put_answer(self, index: int, message: dict[str, Any]) -> dict[str, Any]:
        marked = dict(message)
        # What is empty must stay so: templates ask whether there is reasoning, or a text beside calls.
        if message.get("reasoning_content", "").strip():
            marked["reasoning_content"] = _around(message["reasoning_content"], self.reasoning(index), "")
        if message.get("content") or ("content" in message and "tool_calls" not in message):
            marked["content"] = self._put_content(index, message["content"], alone="tool_calls" not in message)
        if "tool_calls" in message:
            marked["tool_calls"] = [
                _marked_call(call, *self.call(index, number)) for number, call in enumerate(message["tool_calls"])
            ]
        return marked

    def _put_content(self, index: int, content: str, *, alone: bool) -> str:
        opening, closing = self.opening(index), self.closing(index)
        typed = typed_in(content)
        if typed is None:
            return _around(content, opening, closing)
        head, said, rest = content[: typed.start], content[typed.start : typed.end], content[typed.rest :]
        if said.strip():
            said = _around(said, self.reasoning(index), "")
        return head + said + CLOSING + (_around(rest, opening, closing) if rest.strip() or alone else rest)

    def _mark(self, message: int, number: int) -> str:
        return chr(self.first + self.starts[message] + number)


def string_counts(message: dict[str, Any]) -> list[int]:
    """How many strings the arguments of each tool call of a message hold."""
    return [_count_strings(call["function"]["arguments"]) for call in message.get("tool_calls", [])]


def _around(text: str, opening: str, closing: str) -> str:
    """Marks inside the white space at both ends, which many templates strip."""
    core = text.strip()
    if not core:
        return opening + closing + text
    start = text.index(core)
    return text[:start] + opening + core + closing + text[start + len(core) :]


def _marked_call(call: dict[str, Any], named: str, argued: str) -> dict[str, Any]:
    function = call["function"]
    marked = {"name": function["name"] + named, "arguments": _strings_marked(function["arguments"], argued)}
    return {**call, "function": {**function, **marked}}


def _strings_marked(value: Any, mark: str) -> Any:
    if isinstance(value, str):
        return value + mark
    if isinstance(value, dict):
        return {key: _strings_marked(entry, mark) for key, entry in value.items()}
    return [_strings_marked(entry, mark) for entry in value] if isinstance(value, list) else value


def _count_strings(value: Any) -> int:
    if isinstance(value, dict | list):
        return sum(map(_count_strings, _entries(value)))
    return int(isinstance(value, str))


def _entries(value: dict[str, Any] | list[Any]) -> Iterator[Any]:
    return iter(value.values() if isinstance(value, dict) else value)
