"""The beginnings of the assistant's generations in a rendered conversation. The tokens from each beginning on are
supervised.

A generation begins where the preceding conversation would end if it were rendered with `add_generation_prompt`. If a
template writes more text before the answer, such as a space or an empty reasoning block, the model has to generate that
text itself, so it is supervised, too.
"""

from dataclasses import dataclass, field
from typing import Protocol

from api.spec.formats import Messages
from worker.rows.sentinels import Positions, Sentinels


class PrefixRenderer(Protocol):
    """Renders the conversation before a message."""

    def render_prefix(self, message: int, *, prompted: bool) -> str | None:
        """Return the messages before this one, rendered with or without the generation prompt; None if the template
        refuses them."""

    def render_tail(self, message: int, *, prompted: bool) -> str | None:
        """Return the end of `render_prefix`, from the end of the last content on; None if it cannot be found."""


@dataclass
class GenerationStarts:
    """Finds the generations of one rendered conversation."""

    text: str
    messages: Messages
    sentinels: Sentinels
    positions: Positions
    generation_prompt: str
    """The text that the template adds before the assistant's turn; empty if none."""
    after_user: str
    """The text between a user's message and the generation; empty if unknown."""
    rendered: PrefixRenderer
    _tails: dict[str, set[str]] = field(default_factory=dict)
    """Role of a message → texts found between such a message and the generation after it."""
    _differ: set[str] = field(default_factory=set)
    """Roles of messages after which a search method has failed to find the answer's beginning, for example because the
    template renders the conversation up to there differently. For answers after such a message, `find` tries
    `_by_generation_prompt` first."""

    def find(self, message: int, previous_end: int, limit: int) -> int | None:
        """Return the position at which the message's generation begins, or None if it cannot be found.

        `previous_end`: the end of the assistant's previous turn. `limit`: the position of the message's first sentinel
        (worker.rows.sentinels).
        """
        role = self.messages[message - 1]["role"] if message else ""
        content_end = max(
            (position for position in self._content_ends_before(message) if previous_end <= position <= limit),
            default=None,
        )
        start = None if content_end is None else self._after_tail(message, role, content_end)
        if start is not None:
            return start
        begin = previous_end if content_end is None else content_end
        methods = [self._by_rendering, self._by_generation_prompt, self._by_tail]
        for method in [*methods[1:], methods[0]] if role in self._differ else methods:
            start = method(message, begin, limit)
            if start is not None and start >= begin:
                break
            self._differ.add(role)
        else:
            start = self._by_common_beginning(message, begin)
        if content_end is not None and start is not None:
            self._remember_tail(message, self.text[content_end:start])
        return start

    def _content_ends_before(self, message: int) -> list[int]:
        return self.positions.get(self.sentinels.text_end(message - 1), []) if message else []

    def _after_tail(self, message: int, role: str, content_end: int) -> int | None:
        """Return the position after a known tail (see `_tails`), or None. A known tail saves rendering the conversation
        again for each answer."""
        space = self._space_after(message)
        probed = self.after_user if role == "user" else ""
        for tail in sorted({*self._tails.get(role, ()), probed} - {""}, key=len, reverse=True):
            for before in (space, ""):  # some templates strip contents
                if self.text.startswith(before + tail, content_end):
                    begin = content_end + len(before)
                    shared = shared_length(probed, self.text[begin : begin + len(probed)])
                    return begin + max(len(tail), shared)
        return None

    def _by_rendering(self, message: int, _begin: int, _limit: int) -> int | None:
        prompted = self.rendered.render_prefix(message, prompted=True)
        return len(prompted) if prompted and self.text.startswith(prompted) else None

    def _by_generation_prompt(self, _message: int, begin: int, limit: int) -> int | None:
        # The search starts at `begin`, because an earlier message may contain the generation prompt in its own text.
        at = self.text.rfind(self.generation_prompt, begin, limit) if self.generation_prompt else -1
        return at + len(self.generation_prompt) if at >= 0 else None

    def _by_tail(self, message: int, begin: int, _limit: int) -> int | None:
        """Return the position up to which the text after the previous message's content equals the text there in the
        conversation before the message, rendered with the generation prompt.

        Templates that write calls may render a conversation differently once a later question follows: they leave out
        the reasoning before that question, or write the tools there.
        """
        if begin not in self._content_ends_before(message):
            return None
        prompted = self.rendered.render_tail(message, prompted=True)
        if not prompted:
            return None
        if not self.text.startswith(prompted, begin):
            bare = self.rendered.render_tail(message, prompted=False)
            if bare is None or not self.text.startswith(bare, begin):
                return None
            # A later answer may have the reasoning block that the generation prompt opens.
            self._remember_tail(message, prompted)
            return begin + max(len(bare), shared_length(prompted, self.text[begin : begin + len(prompted)]))
        return begin + len(prompted)

    def _by_common_beginning(self, message: int, begin: int) -> int | None:
        """Return the position up to which the text equals the conversation before the message, rendered with the
        generation prompt. None if the text does not even begin with that conversation without the prompt.

        Some templates open a reasoning block in the generation prompt, but leave that block out of earlier answers.
        """
        bare, prompted = (self.rendered.render_prefix(message, prompted=prompt) for prompt in (False, True))
        if not bare or not self.text.startswith(bare):
            return None
        start = max(len(bare), shared_length(prompted or "", self.text))
        return start if start >= begin else None

    def _remember_tail(self, message: int, after_content: str) -> None:
        tail = after_content.removeprefix(self._space_after(message))
        if tail.strip():
            self._tails.setdefault(self.messages[message - 1]["role"], set()).add(tail)

    def _space_after(self, message: int) -> str:
        """Return the white space at the end of the previous message's content, which comes after the content's last
        sentinel."""
        content: str = self.messages[message - 1]["content"]
        return content[len(content.rstrip()) :] if content.strip() else content


def shared_length(prompted: str, text: str) -> int:
    """Return the length of the common beginning of both texts. A tag such as <think> is shared whole or not at all."""
    length = len(prompted)
    if not text.startswith(prompted):
        pairs = enumerate(zip(prompted, text, strict=False))
        length = next((at for at, (left, right) in pairs if left != right), min(len(prompted), len(text)))
    tag = prompted.rfind("<", 0, length)
    return tag if tag > prompted.rfind(">", 0, length) else length
