"""A rendered conversation with the assistant's turns in it, and reasoning put back where a template left it out."""

from dataclasses import dataclass, replace
from typing import Protocol

from api.spec.formats import RowError
from worker.rows.generation_starts import Before, shared_length
from worker.rows.reasoning import CLOSING, OPENING, reasoning_of
from worker.rows.sentinels import Messages, Places, Sentinels
from worker.rows.turns import Turn


@dataclass(frozen=True)
class RenderedTurns:
    text: str
    messages: Messages
    marks: Sentinels
    places: Places
    turns: list[Turn]

    def without_reasoning(self) -> list[int]:
        """Messages whose reasoning the template does not show."""
        return [
            index
            for index, message in enumerate(self.messages)
            if reasoning_of(message) and self.marks.reasoning(index) not in self.places
        ]

    def start(self, message: int) -> int:
        return min(turn.start for turn in self.turns if turn.message == message)

    def head(self, message: int) -> tuple[int, int]:
        """From the end of what is said before the message to its own first word; reasoning stands in between."""
        marks = (self.marks.opening(message), *self.marks.calls(message))
        first = min((place for mark in marks for place in self.places.get(mark, [])), default=None)
        if first is None:
            raise RowError("does not show the message", code="reasoning_not_kept")
        said = self.places.get(self.marks.closing(message - 1), []) if message else []
        return max((place for place in said if place <= first), default=self.start(message)), first

    def with_head(self, message: int, head: str, start: int) -> "RenderedTurns":
        """With another head, in which the generation begins after `start` characters."""
        begin, end = self.head(message)

        def moved(place: int) -> int:
            return min(place, begin) if place < end else place + len(head) - (end - begin)

        turns, begun = [], False
        for turn in self.turns:
            own = turn.message == message
            if own and turn.end <= end:
                continue  # a part that the template marks by itself, such as an empty block of reasoning
            at = begin + start if own and not begun else moved(turn.start)
            begun = begun or own
            turns.append(replace(turn, start=at, end=moved(turn.end)))
        places = {mark: [moved(place) for place in found] for mark, found in self.places.items()}
        places[self.marks.reasoning(message)] = [begin + start]
        return replace(self, text=self.text[:begin] + head + self.text[end:], places=places, turns=turns)


class Source(Before, Protocol):
    """Renders parts of the conversation."""

    @property
    def shows_reasoning(self) -> bool:
        """Whether the template has a form of its own for reasoning, if only for the last message."""

    def ending_with(self, message: int) -> RenderedTurns:
        """The conversation up to and including that message."""


def keep_reasoning(drawn: RenderedTurns, source: Source) -> RenderedTurns:
    """Put reasoning that the template leaves out where the model would write it; RowError where that is unknown.

    Most templates show it in the last message alone: its head there is the one to learn in earlier messages, too. For
    templates that know of none it is written in tags, as if it were typed in the content.
    """
    for message in reversed(drawn.without_reasoning()):
        try:
            drawn = drawn.with_head(message, *_head(message, source))
        except RowError as error:
            raise RowError(
                f"message {message + 1}: its reasoning cannot be kept, because the chat template {error.message}; give "
                '\'training.reasoning\' "last" or "drop", or leave it out',
                code="reasoning_not_kept",
            ) from None
    return drawn


def _head(message: int, source: Source) -> tuple[str, int]:
    """The head of the message as the model would write it, and where the generation begins in it."""
    alone = source.ending_with(message)
    begin, first = alone.head(message)
    if message not in alone.without_reasoning():
        return alone.text[begin:first], alone.start(message) - begin
    if source.shows_reasoning:
        raise RowError("shows reasoning elsewhere only", code="reasoning_not_kept")
    calls = alone.marks.opening(message) not in alone.places
    start = alone.start(message)
    at = start if calls else first
    tags = f"{OPENING}\n{reasoning_of(alone.messages[message])}\n{CLOSING}\n\n"
    head = alone.text[begin:at] + tags + alone.text[at:first]
    # A generation prompt may open the block.
    prompted = source.before(message, prompted=True) or ""
    return head, max(start - begin, shared_length(prompted, alone.text[:begin] + head) - begin)
