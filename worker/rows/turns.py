"""The assistant's turns of one rendered conversation, found by the marks that stood in it."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from api.spec.formats import RowError
from worker.rows.generation_starts import Before, GenerationStarts
from worker.rows.sentinels import Messages, Places, Sentinels, string_counts


@dataclass(frozen=True)
class Turn:
    """Characters [start, end) of the text: what the assistant says in that message, with its end of turn."""

    message: int
    start: int
    end: int
    ended: bool
    """Whether it has an end of turn."""


class Part(Before, Protocol):
    """What rendering only a part of the conversation shows, where the marks do not."""

    def calls_alone(self, message: int) -> tuple[int, str] | None:
        """The calls of the message where it is the last one: how many of their marks are rendered, and the text after
        the last. None where the template refuses."""


@dataclass(frozen=True)
class AssistantSpans:
    text: str
    messages: Messages
    marks: Sentinels
    places: Places
    end_of_turn: re.Pattern[str] | None
    rendered: Part

    def by_answers(self, beginnings: GenerationStarts) -> Iterator[Turn]:
        previous_end = 0
        for message in self._assistant():
            calls = self._required_calls(message)
            opened = self._opened(message)
            closed = self.places.get(self.marks.closing(message), [])
            start = beginnings.of(message, previous_end, limit=min([*opened, *calls, *closed], default=0))
            if start is None:
                start = min(opened, default=None)
            if start is None:
                raise RowError(f"message {message + 1} cannot be found in the rendered text", code="answer_not_found")
            previous_end = self._end(message, calls)
            self._require_alone(message, start, previous_end)
            yield Turn(message, start, previous_end, self._ends_a_turn(previous_end))

    def by_template(self) -> Iterator[Turn]:
        """As the template's {% generation %} says; the end of turn belongs to the turn even if left outside."""
        opening, closing = self.marks.generation
        spans = list(zip(self.places.get(opening, []), self.places.get(closing, []), strict=True))
        owners = [self._owner(start, end) for start, end in spans]
        found = set(owners)
        for message in self._assistant():
            self._required_calls(message)
            if message not in found:
                raise RowError(
                    f"message {message + 1} is not marked as the assistant's by the chat template",
                    code="answer_not_found",
                )
        for owner, (start, end) in zip(owners, spans, strict=True):
            whole = end if self._ends_a_turn(end) else self._with_end_of_turn(end) or end
            yield Turn(owner, start, whole, self._ends_a_turn(whole))

    def _ends_a_turn(self, end: int) -> bool:
        """Whether an end of turn stands there, white space after it aside."""
        if self.end_of_turn is None:
            return False
        tail = self.text[max(0, end - 100) : end].rstrip()
        return any(match.end() == len(tail) for match in self.end_of_turn.finditer(tail))

    def _assistant(self) -> list[int]:
        return [index for index, message in enumerate(self.messages) if message["role"] == "assistant"]

    def _opened(self, message: int) -> list[int]:
        """Where its reasoning or its text begins."""
        marks = (self.marks.reasoning(message), self.marks.opening(message))
        return [place for mark in marks for place in self.places.get(mark, [])]

    def _end(self, message: int, calls: list[int]) -> int:
        ends = [*self.places.get(self.marks.closing(message), [])[:1], *calls[-1:]]
        # Beside calls, a content of reasoning alone may stand after what the tool answered.
        ends += self.places.get(self.marks.reasoning(message), [])[:1]
        if not ends:
            raise RowError(f"message {message + 1} is left out by the chat template", code="answer_not_found")
        last = max(ends)
        if end := self._with_end_of_turn(last):
            return end
        if calls:
            # Between the last argument and the end of turn stand brackets and tags of the template.
            at = bisect_right(self._marked, last)
            limit = self._marked[at] if at < len(self._marked) else len(self.text)
            match = self.end_of_turn.search(self.text, last, limit) if self.end_of_turn else None
            return match.end() if match else last + self._length_after_calls(message, last)
        return last

    def _length_after_calls(self, message: int, last: int) -> int:
        """Characters of the message's own turn after its last call, if it renders the same as the last message."""
        _, rest = self.rendered.calls_alone(message) or (0, "")
        rest = rest.rstrip()
        return len(rest) if self.text.startswith(rest, last) else 0

    def _owner(self, start: int, end: int) -> int:
        """The message of which that is a part: whose mark stands in it, or was the last before it."""
        at = bisect_left(self._said, (start, 0))
        inside = self._said[at : at + 1]
        if inside and inside[0][0] <= end:
            return inside[0][1]
        return self._said[at - 1][1] if at else self._assistant()[0]

    @cached_property
    def _said(self) -> list[tuple[int, int]]:
        """(place, message) of all marks of the assistant's messages, in their order."""
        return sorted(
            (place, message)
            for message in self._assistant()
            for mark in (self.marks.closing(message), *self.marks.calls(message))
            for place in [*self._opened(message), *self.places.get(mark, [])]
        )

    @cached_property
    def _marked(self) -> list[int]:
        """Places of all marks, in their order."""
        return sorted(place for places in self.places.values() for place in places)

    @cached_property
    def _closed(self) -> list[tuple[int, int]]:
        """(place, message) of the marks that close each message, in their order."""
        return sorted(
            (place, message)
            for message in range(len(self.messages))
            for place in self.places.get(self.marks.closing(message), [])
        )

    def _require_alone(self, message: int, start: int, end: int) -> None:
        """Some templates put a tool's answer inside the assistant's turn: what it says is not to be learnt."""
        first, last = bisect_right(self._closed, (start, len(self.messages))), bisect_left(self._closed, (end, 0))
        others = (other for _, other in self._closed[first:last] if other != message)
        if (other := min(others, default=None)) is not None:
            raise RowError(
                f"message {message + 1} cannot be told from message {other + 1}, which stands in it once rendered",
                code="answer_not_found",
            )

    def _with_end_of_turn(self, answer_end: int) -> int | None:
        match = self.end_of_turn.match(self.text, answer_end) if self.end_of_turn else None
        return match.end() if match else None

    def _required_calls(self, message: int) -> list[int]:
        """The places of all marks of the message's calls; RowError unless every call is rendered whole."""
        strings = string_counts(self.messages[message])
        if not strings:
            return []
        found = sorted(place for mark in self.marks.calls(message) for place in self.places.get(mark, []))
        if len(found) > len(strings) + sum(strings):
            found = found[: self._own_calls(message, len(found))]
        if not all(self._is_whole(message, number, held, found[-1:]) for number, held in enumerate(strings)):
            raise RowError(
                f"message {message + 1} calls tools, which the base model's chat template does not show to the model",
                code="tools_not_supported",
            )
        return found

    def _own_calls(self, message: int, found: int) -> int:
        """How many marks stand in the message's own turn. Some templates name a tool twice in its call, and some once
        more where it answers."""
        if message == len(self.messages) - 1:
            return found
        alone = self.rendered.calls_alone(message)
        if alone is None:
            raise RowError(
                f"message {message + 1}: where its tool calls end cannot be told from what the chat template writes",
                code="answer_not_found",
            )
        return alone[0]

    def _is_whole(self, message: int, number: int, strings: int, last: list[int]) -> bool:
        """Whether the name of a call and the strings in its arguments stand up to the last place."""
        name, string = (
            sum(place <= limit for limit in last for place in self.places.get(mark, []))
            for mark in self.marks.call(message, number)
        )
        return name >= 1 and string >= strings
