"""A rendered conversation with its assistant turns, and the restoration of reasoning that a template left out."""

from dataclasses import dataclass, replace
from typing import Protocol

from api.spec.formats import Messages, RowError
from worker.rows.generation_starts import PrefixRenderer, shared_length
from worker.rows.reasoning import CLOSING, OPENING, reasoning_of
from worker.rows.sentinels import Positions, Sentinels
from worker.rows.turns import Turn


@dataclass(frozen=True)
class RenderedTurns:
    """A rendered conversation and the assistant's turns in it."""

    text: str
    messages: Messages
    sentinels: Sentinels
    positions: Positions
    turns: list[Turn]

    def missing_reasoning(self) -> list[int]:
        """Return the indices of messages whose reasoning the template left out."""
        return [
            index
            for index, message in enumerate(self.messages)
            if reasoning_of(message) and self.sentinels.reasoning(index) not in self.positions
        ]

    def start(self, message: int) -> int:
        """Return the position in `text` at which the assistant's message begins; if it was rendered as several turns,
        the first of them."""
        return min(turn.start for turn in self.turns if turn.message == message)

    def head(self, message: int) -> tuple[int, int]:
        """Return the span from the end of the previous message's content to the first sentinel of this message. This
        message's reasoning belongs there. Raises RowError if the template left this message out."""
        sentinels = (self.sentinels.text_start(message), *self.sentinels.calls(message))
        first = min((position for sentinel in sentinels for position in self.positions.get(sentinel, [])), default=None)
        if first is None:
            raise RowError("does not show this message", code="reasoning_not_kept")
        content_ends = self.positions.get(self.sentinels.text_end(message - 1), []) if message else []
        return max((position for position in content_ends if position <= first), default=self.start(message)), first

    def with_head(self, message: int, head: str, start: int) -> "RenderedTurns":
        """Return the conversation with another head for this message. The model's generation begins `start` characters
        into that head."""
        begin, end = self.head(message)

        def shifted(position: int) -> int:
            return min(position, begin) if position < end else position + len(head) - (end - begin)

        turns, begun = [], False
        for turn in self.turns:
            own = turn.message == message
            if own and turn.end <= end:
                continue  # a part that the template marks separately, such as an empty reasoning block
            at = begin + start if own and not begun else shifted(turn.start)
            begun = begun or own
            turns.append(replace(turn, start=at, end=shifted(turn.end)))
        positions = {sentinel: [shifted(position) for position in old] for sentinel, old in self.positions.items()}
        positions[self.sentinels.reasoning(message)] = [begin + start]
        return replace(self, text=self.text[:begin] + head + self.text[end:], positions=positions, turns=turns)


class ConversationRenderer(PrefixRenderer, Protocol):
    """Renders the beginning of the conversation, up to one of its messages."""

    @property
    def shows_reasoning(self) -> bool:
        """Whether the template can show reasoning, even if only in the last message."""

    def render_through(self, message: int) -> RenderedTurns:
        """Return the conversation up to and including `message`. Raises RowError if the template refuses it."""


def keep_reasoning(rendered: RenderedTurns, source: ConversationRenderer) -> RenderedTurns:
    """Restore reasoning that the template leaves out, at the place where the model would write it. Raises RowError if
    that place is unknown.

    Most templates show reasoning in the last message only. The head of an earlier message (see `RenderedTurns.head`) is
    then taken from a rendering in which that message is the last. If a template never shows reasoning, the reasoning is
    written in tags, as if the content contained it.
    """
    for message in reversed(rendered.missing_reasoning()):
        try:
            rendered = rendered.with_head(message, *_head(message, source))
        except RowError as error:
            raise RowError(
                f"message {message + 1}: its reasoning cannot be kept, because the chat template {error.message}; set "
                '\'training.reasoning\' to "last" or "drop", or omit that field',
                code="reasoning_not_kept",
            ) from None
    return rendered


def _head(message: int, source: ConversationRenderer) -> tuple[str, int]:
    """Return the message's head with its reasoning, as the model would write it, and the offset in the head at which
    the generation begins. Raises RowError if the template does not show where the reasoning belongs."""
    rendered = source.render_through(message)
    begin, first = rendered.head(message)
    if message not in rendered.missing_reasoning():
        return rendered.text[begin:first], rendered.start(message) - begin
    if source.shows_reasoning:
        raise RowError("shows no reasoning in this message", code="reasoning_not_kept")
    calls = rendered.sentinels.text_start(message) not in rendered.positions
    start = rendered.start(message)
    at = start if calls else first
    tags = f"{OPENING}\n{reasoning_of(rendered.messages[message])}\n{CLOSING}\n\n"
    head = rendered.text[begin:at] + tags + rendered.text[at:first]
    # The generation prompt may open the reasoning block.
    prompted = source.render_prefix(message, prompted=True) or ""
    return head, max(start - begin, shared_length(prompted, rendered.text[:begin] + head) - begin)
