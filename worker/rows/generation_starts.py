"""Where the assistant's generations begin in a rendered conversation: loss is carried from there on.

A generation begins where the conversation before it ends once it is rendered with `add_generation_prompt`. What a
template writes between that and the answer, be it a space or an empty block of reasoning, the model writes itself.
"""

from dataclasses import dataclass, field
from typing import Protocol

from worker.rows.sentinels import Messages, Places, Sentinels


class Before(Protocol):
    """What stands before a message, rendered without the rest of the conversation."""

    def before(self, message: int, *, prompted: bool) -> str | None:
        """With the generation prompt or without; None where the template refuses."""


@dataclass
class GenerationStarts:
    text: str
    messages: Messages
    marks: Sentinels
    places: Places
    generation_prompt: str
    """What the template adds where the assistant is to speak; empty if nothing."""
    after_user: str
    """What it writes between a user's text and the generation; empty if unknown."""
    rendered: Before
    _tails: dict[str, set[str]] = field(default_factory=dict)
    """What was found between a message and the generation after it, by the role of the message."""
    _differ: set[str] = field(default_factory=set)
    """Roles after which the conversation before an answer renders otherwise than in the whole."""

    def of(self, message: int, previous_end: int, limit: int) -> int | None:
        """Where that message's generation begins. `limit`: where its first word stands."""
        role = self.messages[message - 1]["role"] if message else ""
        said = max((place for place in self._said_before(message) if previous_end <= place <= limit), default=None)
        start = None if said is None else self._after_tail(message, role, said)
        if start is not None:
            return start
        begin = previous_end if said is None else said
        ways = [self._by_rendering, self._by_generation_prompt]
        for way in reversed(ways) if role in self._differ else ways:
            start = way(message, begin, limit)
            if start is not None and start >= begin:
                break
            self._differ.add(role)
        else:
            start = self._by_common_beginning(message, begin)
        self._learn(message, role, said, start)
        return start

    def _said_before(self, message: int) -> list[int]:
        return self.places.get(self.marks.closing(message - 1), []) if message else []

    def _after_tail(self, message: int, role: str, said: int) -> int | None:
        """After a tail that is known, which spares rendering the conversation once more for each answer."""
        space = self._space_after(message)
        probed = self.after_user if role == "user" else ""
        for tail in sorted({*self._tails.get(role, ()), probed} - {""}, key=len, reverse=True):
            for before in (space, ""):  # some templates strip what is said
                if self.text.startswith(before + tail, said):
                    begin = said + len(before)
                    shared = shared_length(probed, self.text[begin : begin + len(probed)])
                    return begin + max(len(tail), shared)
        return None

    def _by_rendering(self, message: int, _begin: int, _limit: int) -> int | None:
        prompted = self.rendered.before(message, prompted=True)
        return len(prompted) if prompted and self.text.startswith(prompted) else None

    def _by_generation_prompt(self, _message: int, begin: int, limit: int) -> int | None:
        # Not in what was said before: whoever wrote that could have written the generation prompt there.
        found = self.text.rfind(self.generation_prompt, begin, limit) if self.generation_prompt else -1
        return found + len(self.generation_prompt) if found >= 0 else None

    def _by_common_beginning(self, message: int, begin: int) -> int | None:
        """Some templates open a block of reasoning in the generation prompt, and leave it out of earlier answers."""
        bare, prompted = (self.rendered.before(message, prompted=asked) for asked in (False, True))
        if not bare or not self.text.startswith(bare):
            return None
        start = max(len(bare), shared_length(prompted or "", self.text))
        return start if start >= begin else None

    def _learn(self, message: int, role: str, said: int | None, start: int | None) -> None:
        if said is None or start is None:
            return
        space = self._space_after(message)
        tail = self.text[said + len(space) if self.text.startswith(space, said) else said : start]
        if tail.strip():
            self._tails.setdefault(role, set()).add(tail)

    def _space_after(self, message: int) -> str:
        """White space at the end of what is said before the message, which stands after its mark."""
        content: str = self.messages[message - 1]["content"]
        return content[len(content.rstrip()) :] if content.strip() else content


def shared_length(prompted: str, text: str) -> int:
    """Characters that both begin with, where a tag such as <think> counts as one."""
    pairs = enumerate(zip(prompted, text, strict=False))
    length = next((at for at, (one, other) in pairs if one != other), min(len(prompted), len(text)))
    tag = prompted.rfind("<", 0, length)
    return tag if tag > prompted.rfind(">", 0, length) else length
