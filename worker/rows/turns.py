"""The assistant's turns in a rendered conversation, located by sentinels."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from api.spec.formats import Messages, RowError
from worker.rows.generation_starts import GenerationStarts, PrefixRenderer
from worker.rows.sentinels import Positions, Sentinels, string_counts


@dataclass(frozen=True)
class Turn:
    """Characters [start, end) of the text: the assistant's text in that message, with its end of turn."""

    message: int
    start: int
    end: int
    ended: bool
    """Whether the text ends with an end of turn."""


class PartialRenderer(PrefixRenderer, Protocol):
    """Renders a part of the conversation. This is needed where the positions of the sentinels are ambiguous."""

    def calls_as_last_message(self, message: int) -> tuple[int, str] | None:
        """Render the conversation up to this message. Return (the number of sentinels of the message's calls, the text
        after the last of these sentinels); None if the template refuses the messages."""


@dataclass(frozen=True)
class AssistantSpans:
    """Locates the assistant's turns of one rendered conversation."""

    text: str
    messages: Messages
    sentinels: Sentinels
    positions: Positions
    end_of_turn: re.Pattern[str] | None
    generation_prompt: str
    """The text that the template adds before the assistant's turn; empty if none."""
    rendered: PartialRenderer

    def from_sentinels(self, starts: GenerationStarts) -> Iterator[Turn]:
        """Yield the turns as the sentinels show them. Raises RowError if a turn cannot be located."""
        previous_end = 0
        for message in self._assistant():
            calls = self._required_calls(message)
            opened = self._answer_starts(message)
            closed = self.positions.get(self.sentinels.text_end(message), [])
            start = starts.find(message, previous_end, limit=min([*opened, *calls, *closed], default=0))
            if start is None:
                start = min(opened, default=None)
            if start is None:
                raise RowError(f"message {message + 1} cannot be found in the rendered text", code="answer_not_found")
            previous_end = self._end(message, calls)
            self._require_no_other_message(message, start, previous_end)
            yield Turn(message, start, previous_end, self._ends_a_turn(previous_end))

    def from_generation_tags(self) -> Iterator[Turn]:
        """Yield the turns that the template marks by {% generation %}. An end of turn after the tag belongs to the
        turn. Raises RowError if a message is not marked."""
        opening, closing = self.sentinels.generation
        spans = list(zip(self.positions.get(opening, []), self.positions.get(closing, []), strict=True))
        owners = [self._owner(start, end) for start, end in spans]
        marked = set(owners)
        for message in self._assistant():
            self._required_calls(message)
            if message not in marked:
                raise RowError(
                    f"message {message + 1} is not marked as the assistant's by the chat template",
                    code="answer_not_found",
                )
        for owner, (start, end) in zip(owners, spans, strict=True):
            # Some templates, such as SmolLM3's, also mark the beginning of the turn, which no model has to write.
            prompted = self.text.startswith(self.generation_prompt, start)
            whole = end if self._ends_a_turn(end) else self._with_end_of_turn(end) or end
            yield Turn(owner, start + prompted * len(self.generation_prompt), whole, self._ends_a_turn(whole))

    def _ends_a_turn(self, end: int) -> bool:
        """Whether the text before `end` ends with an end of turn, ignoring white space."""
        if self.end_of_turn is None:
            return False
        tail = self.text[max(0, end - 100) : end].rstrip()
        return any(match.end() == len(tail) for match in self.end_of_turn.finditer(tail))

    def _assistant(self) -> list[int]:
        return [index for index, message in enumerate(self.messages) if message["role"] == "assistant"]

    def _answer_starts(self, message: int) -> list[int]:
        """Return the positions at which the message's reasoning or text begins."""
        sentinels = (self.sentinels.reasoning(message), self.sentinels.text_start(message))
        return [position for sentinel in sentinels for position in self.positions.get(sentinel, [])]

    def _end(self, message: int, calls: list[int]) -> int:
        ends = [*self.positions.get(self.sentinels.text_end(message), [])[:1], *calls[-1:]]
        # Beside calls, a content that is only reasoning may be rendered after the tool's result.
        ends += self.positions.get(self.sentinels.reasoning(message), [])[:1]
        if not ends:
            raise RowError(f"message {message + 1} is left out by the chat template", code="answer_not_found")
        last = max(ends)
        if end := self._with_end_of_turn(last):
            return end
        if calls:
            # The template writes brackets and tags between the last argument and the end of turn.
            at = bisect_right(self._all_positions, last)
            limit = self._all_positions[at] if at < len(self._all_positions) else len(self.text)
            match = self.end_of_turn.search(self.text, last, limit) if self.end_of_turn else None
            return match.end() if match else last + self._length_after_calls(message, last)
        return last

    def _length_after_calls(self, message: int, last: int) -> int:
        """Return the length of the text after the message's last call that still belongs to the message. That is the
        text which follows the call if the message is rendered as the last one. Return 0 if another text follows here.
        """
        _, rest = self.rendered.calls_as_last_message(message) or (0, "")
        rest = rest.rstrip()
        return len(rest) if self.text.startswith(rest, last) else 0

    def _owner(self, start: int, end: int) -> int:
        """Return the message that the span belongs to: the message with a sentinel in the span, else the message with
        the last sentinel before the span."""
        at = bisect_left(self._assistant_sentinels, (start, 0))
        inside = self._assistant_sentinels[at : at + 1]
        if inside and inside[0][0] <= end:
            return inside[0][1]
        return self._assistant_sentinels[at - 1][1] if at else self._assistant()[0]

    @cached_property
    def _assistant_sentinels(self) -> list[tuple[int, int]]:
        """(position, message) of all sentinels in the assistant's messages, sorted."""
        return sorted(
            (position, message)
            for message in self._assistant()
            for sentinel in (self.sentinels.text_end(message), *self.sentinels.calls(message))
            for position in [*self._answer_starts(message), *self.positions.get(sentinel, [])]
        )

    @cached_property
    def _all_positions(self) -> list[int]:
        """Positions of all sentinels, sorted."""
        return sorted(position for positions in self.positions.values() for position in positions)

    @cached_property
    def _text_ends(self) -> list[tuple[int, int]]:
        """(position, message) of the sentinels at the end of each message's text, sorted."""
        return sorted(
            (position, message)
            for message in range(len(self.messages))
            for position in self.positions.get(self.sentinels.text_end(message), [])
        )

    def _require_no_other_message(self, message: int, start: int, end: int) -> None:
        """Raise RowError if the span contains another message's text. Some templates render a tool's result inside the
        assistant's turn, where the result must not be supervised."""
        first, last = bisect_right(self._text_ends, (start, len(self.messages))), bisect_left(self._text_ends, (end, 0))
        others = (other for _, other in self._text_ends[first:last] if other != message)
        if (other := min(others, default=None)) is not None:
            raise RowError(
                f"the chat template renders message {other + 1} inside message {message + 1}, so message {message + 1} "
                "cannot be trained on alone",
                code="answer_not_found",
            )

    def _with_end_of_turn(self, answer_end: int) -> int | None:
        match = self.end_of_turn.match(self.text, answer_end) if self.end_of_turn else None
        return match.end() if match else None

    def _required_calls(self, message: int) -> list[int]:
        """Return the positions of all sentinels of the message's calls. Raises RowError unless every call is rendered
        completely."""
        strings = string_counts(self.messages[message])
        if not strings:
            return []
        positions = sorted(
            position for sentinel in self.sentinels.calls(message) for position in self.positions.get(sentinel, [])
        )
        if len(positions) > len(strings) + sum(strings):
            positions = positions[: self._own_calls(message, len(positions))]
        if not all(self._is_whole(message, number, count, positions[-1:]) for number, count in enumerate(strings)):
            raise RowError(
                f"message {message + 1} has tool calls, which the base model's chat template leaves out",
                code="tools_not_supported",
            )
        return positions

    def _own_calls(self, message: int, rendered: int) -> int:
        """Return the number of sentinels of calls in the message's own turn.

        Some templates write a tool's name twice in its call, and some write it again with the call's result.
        """
        if message == len(self.messages) - 1:
            return rendered
        last_message = self.rendered.calls_as_last_message(message)
        if last_message is None:
            raise RowError(
                f"message {message + 1}: the end of its tool calls cannot be found in the rendered text",
                code="answer_not_found",
            )
        return last_message[0]

    def _is_whole(self, message: int, number: int, strings: int, last: list[int]) -> bool:
        """Whether call `number` is rendered completely up to the position in `last`: its name, and as many strings of
        its arguments as `strings`."""
        name, string = (
            sum(position <= limit for limit in last for position in self.positions.get(sentinel, []))
            for sentinel in self.sentinels.call(message, number)
        )
        return name >= 1 and string >= strings
