"""Sentinels: characters from Unicode's private-use planes, inserted around the contents of a conversation.

A chat template renders sentinels unchanged, so their positions show where the contents are. Then the sentinels are
removed from the rendered text.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from api.spec.formats import Message, Messages, RowError
from worker.rows.reasoning import CLOSING, find_inline_reasoning
from worker.rows.skeleton import GENERATION, TEXT_END, TEXT_START, Place

PLANES = ((0xF0000, 0xFFFFD), (0x100000, 0x10FFFD), (0xE000, 0xF8FF))
"""Ranges of private-use code points, (first, last). The first range that the conversation does not use is taken."""
PATTERNS = {first: re.compile(f"[{chr(first)}-{chr(last)}]") for first, last in PLANES}

SENTINELS_PER_MESSAGE = 3
"""Number of sentinels of each message, not counting those of its tool calls."""

Positions = dict[str, list[int]]
"""Sentinel → its positions in the text."""


@dataclass(frozen=True)
class Sentinels:
    """The sentinels of one conversation. Each of these places has its own code point: the beginning and the end of the
    template's {% generation %}; in each message, the beginning and the end of its text and the beginning of its
    reasoning; in each tool call, the end of its name. All strings in the arguments of a call end with the same
    sentinel, which differs from call to call."""

    first: int
    starts: tuple[int, ...]
    """The number of sentinels before those of each message; the last entry counts all."""

    @classmethod
    def absent_from(cls, text: str, messages: Messages) -> "Sentinels":
        """Return sentinels for the messages that do not occur in the text. Raises RowError if no range has enough
        unused characters."""
        counts = [2, *(SENTINELS_PER_MESSAGE + 2 * len(message.get("tool_calls", ())) for message in messages)]
        starts = tuple(itertools.accumulate(counts))
        for first, last in PLANES:
            if last - first >= starts[-1] and not PATTERNS[first].search(text):
                return cls(first, starts)
        raise RowError(
            "leaves no characters to mark its answers with: it uses every private-use range of Unicode, or has too "
            "many tool calls",
            code="private_use_characters",
        )

    @property
    def generation(self) -> tuple[str, str]:
        return chr(self.first), chr(self.first + 1)

    def text_start(self, message: int) -> str:
        return self._sentinel(message, TEXT_START)

    def text_end(self, message: int) -> str:
        return self._sentinel(message, TEXT_END)

    def reasoning(self, message: int) -> str:
        return self._sentinel(message, 2)

    def call(self, message: int, number: int) -> tuple[str, str]:
        """Return the sentinels after the name of that tool call, and after each string in its arguments."""
        first = SENTINELS_PER_MESSAGE + 2 * number
        return self._sentinel(message, first), self._sentinel(message, first + 1)

    def calls(self, message: int) -> list[str]:
        """Return the sentinels of all tool calls of the message."""
        return [
            chr(self.first + at) for at in range(self.starts[message] + SENTINELS_PER_MESSAGE, self.starts[message + 1])
        ]

    def insert(self, messages: Messages, all_roles: bool) -> Messages:
        """Return the messages with sentinels in the assistant's answers and calls, and, with `all_roles`, at the ends
        of other contents."""
        return [
            self._insert_in_answer(index, message)
            if message["role"] == "assistant"
            else {**message, "content": _around(message["content"], "", self.text_end(index))}
            if all_roles
            else message
            for index, message in enumerate(messages)
        ]

    def remove(self, marked: str) -> tuple[str, Positions]:
        """Return the text without sentinels, and the positions in this text at which they were."""
        positions: Positions = defaultdict(list)
        pattern = PATTERNS[self.first]
        for removed, match in enumerate(pattern.finditer(marked)):
            positions[match.group()].append(match.start() - removed)
        return pattern.sub("", marked), dict(positions)

    def positions(self, places: Sequence[Place]) -> Positions:
        """Return the positions of the sentinels, as `remove` does. `places`: where they belong in the text of a filled
        skeleton (worker.rows.skeleton)."""
        positions: Positions = defaultdict(list)
        for position, message, number in places:
            sentinel = self.generation[number] if message == GENERATION else self._sentinel(message, number)
            positions[sentinel].append(position)
        return dict(positions)

    def _insert_in_answer(self, index: int, message: Message) -> Message:
        marked = dict(message)
        # Empty values stay empty: templates test whether there is reasoning, or a text beside calls.
        if message.get("reasoning_content", "").strip():
            marked["reasoning_content"] = _around(message["reasoning_content"], self.reasoning(index), "")
        if message.get("content") or ("content" in message and "tool_calls" not in message):
            marked["content"] = self._insert_in_content(index, message["content"], always="tool_calls" not in message)
        if "tool_calls" in message:
            marked["tool_calls"] = [
                _marked_call(call, *self.call(index, number)) for number, call in enumerate(message["tool_calls"])
            ]
        return marked

    def _insert_in_content(self, index: int, content: str, *, always: bool) -> str:
        opening, closing = self.text_start(index), self.text_end(index)
        inline = find_inline_reasoning(content)
        if inline is None:
            return _around(content, opening, closing)
        head, reasoning, rest = content[: inline.start], content[inline.start : inline.end], content[inline.rest :]
        if reasoning.strip():
            reasoning = _around(reasoning, self.reasoning(index), "")
        return head + reasoning + CLOSING + (_around(rest, opening, closing) if rest.strip() or always else rest)

    def _sentinel(self, message: int, number: int) -> str:
        return chr(self.first + self.starts[message] + number)


def string_counts(message: Message) -> list[int]:
    """Return the number of strings in the arguments of each tool call of a message."""
    return [_count_strings(call["function"]["arguments"]) for call in message.get("tool_calls", [])]


def _around(text: str, opening: str, closing: str) -> str:
    """Put sentinels directly around the text, inside the white space at its ends, which many templates strip."""
    core = text.strip()
    if not core:
        return opening + closing + text
    start = text.index(core)
    return text[:start] + opening + core + closing + text[start + len(core) :]


def _marked_call(call: Message, name_end: str, string_end: str) -> Message:
    function = call["function"]
    marked = {"name": function["name"] + name_end, "arguments": _strings_marked(function["arguments"], string_end)}
    return {**call, "function": {**function, **marked}}


def _strings_marked(value: object, sentinel: str) -> object:
    if isinstance(value, str):
        return value + sentinel
    if isinstance(value, dict):
        return {key: _strings_marked(entry, sentinel) for key, entry in value.items()}
    return [_strings_marked(entry, sentinel) for entry in value] if isinstance(value, list) else value


def _count_strings(value: object) -> int:
    if isinstance(value, dict | list):
        return sum(map(_count_strings, _entries(value)))
    return int(isinstance(value, str))


def _entries(value: Message | list[object]) -> Iterator[object]:
    return iter(value.values() if isinstance(value, dict) else value)
