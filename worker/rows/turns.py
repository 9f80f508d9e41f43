"""The assistant's turns of one rendered conversation, found by the marks that stood in it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from api.formats import RowError
from worker.rows.marks import Marks, Messages, Places, call_marks


@dataclass(frozen=True)
class Turn:
    """Characters [start, end) of the text: what the assistant says in that message, with its end of turn."""

    message: int
    start: int
    end: int


class Part(Protocol):
    """What rendering only a part of the conversation shows, where the marks do not."""

    def start_of(self, message: int) -> int | None:
        """Where the message begins, if what was said before it renders the same without it."""

    def length_after(self, message: int, last_mark: int) -> int | None:
        """Characters of the message's own turn after its last mark, if it renders the same as the last message."""


@dataclass(frozen=True)
class Turns:
    text: str
    messages: Messages
    marks: Marks
    places: Places
    generation_prompt: str
    """What the template adds where the assistant is to speak; empty if nothing."""
    end_of_turn: re.Pattern[str] | None

    def by_answers(self, rendered: "Part") -> Iterator[Turn]:
        previous_end = 0
        for message in self._assistant():
            self._require_calls(message)
            start = self._start(message, previous_end)
            if start is None:
                start = rendered.start_of(message)
            if start is None:
                raise RowError(f"message {message + 1} cannot be found in the rendered text", code="answer_not_found")
            previous_end = self._end(message, rendered)
            self._require_alone(message, start, previous_end)
            yield Turn(message, start, previous_end)

    def by_template(self) -> Iterator[Turn]:
        """As the template's {% generation %} says; the end of turn belongs to the turn even if left outside."""
        opening, closing = self.marks.generation
        spans = list(zip(self.places.get(opening, []), self.places.get(closing, []), strict=True))
        owners = [self._owner(start, end) for start, end in spans]
        for message in self._assistant():
            self._require_calls(message)
            if message not in owners:
                raise RowError(
                    f"message {message + 1} is not marked as the assistant's by the chat template",
                    code="answer_not_found",
                )
        for owner, (start, end) in zip(owners, spans, strict=True):
            yield Turn(owner, start, end if self.ends_a_turn(end) else self._with_end_of_turn(end) or end)

    def ends_a_turn(self, end: int) -> bool:
        """Whether an end of turn stands there, white space after it aside."""
        if self.end_of_turn is None:
            return False
        tail = self.text[max(0, end - 100) : end].rstrip()
        return any(match.end() == len(tail) for match in self.end_of_turn.finditer(tail))

    def _assistant(self) -> list[int]:
        return [index for index, message in enumerate(self.messages) if message["role"] == "assistant"]

    def _start(self, message: int, previous_end: int) -> int | None:
        opened = self.places.get(self.marks.opening(message))
        limit = min(opened or self._calls(message) or [0])
        # Not in what was said before: whoever wrote that could have written the generation prompt there.
        said_before = self.places.get(self.marks.closing(message - 1), [0]) if message else [0]
        begin = max(previous_end, *said_before)
        found = self.text.rfind(self.generation_prompt, begin, limit) if self.generation_prompt else -1
        if found >= 0:
            return found + len(self.generation_prompt)
        return min(opened) if opened else None

    def _end(self, message: int, rendered: "Part") -> int:
        calls = self._calls(message)
        ends = [*self.places.get(self.marks.closing(message), [])[:1], *calls[-1:]]
        if not ends:
            raise RowError(f"message {message + 1} is left out by the chat template", code="answer_not_found")
        last = max(ends)
        if end := self._with_end_of_turn(last):
            return end
        if calls:
            # Between the last argument and the end of turn stand brackets and tags of the template.
            following = [place for places in self.places.values() for place in places if place > last]
            limit = min(following, default=len(self.text))
            match = self.end_of_turn.search(self.text, last, limit) if self.end_of_turn else None
            return match.end() if match else last + (rendered.length_after(message, last) or 0)
        return last

    def _owner(self, start: int, end: int) -> int:
        """The message of which that is a part: whose mark stands in it, or was the last before it."""
        assistant = self._assistant()
        marked = [
            (place, message)
            for message in assistant
            for mark in (self.marks.opening(message), self.marks.closing(message), self.marks.call(message))
            for place in self.places.get(mark, [])
        ]
        inside = [entry for entry in marked if start <= entry[0] <= end]
        before = [entry for entry in marked if entry[0] < start]
        return min(inside)[1] if inside else max(before)[1] if before else assistant[0]

    def _require_alone(self, message: int, start: int, end: int) -> None:
        """Some templates put a tool's answer inside the assistant's turn: what it says is not to be learnt."""
        for other in range(len(self.messages)):
            mark = self.marks.closing(other)
            if other != message and any(start < place < end for place in self.places.get(mark, [])):
                raise RowError(
                    f"message {message + 1} cannot be told from message {other + 1}, which stands in it once rendered",
                    code="answer_not_found",
                )

    def _with_end_of_turn(self, answer_end: int) -> int | None:
        match = self.end_of_turn.match(self.text, answer_end) if self.end_of_turn else None
        return match.end() if match else None

    def _calls(self, message: int) -> list[int]:
        """Where the message's calls are marked. Some templates name the tool once more where it answers."""
        return sorted(self.places.get(self.marks.call(message), []))[: call_marks(self.messages[message])]

    def _require_calls(self, message: int) -> None:
        if len(self._calls(message)) < call_marks(self.messages[message]):
            raise RowError(
                f"message {message + 1} calls tools, which the base model's chat template does not show to the model",
                code="tools_not_supported",
            )
