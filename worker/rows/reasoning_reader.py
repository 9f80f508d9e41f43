"""The reasoning at the beginning of a generated answer, separated from the answer's content.

Any model may write such reasoning, because `training.reasoning` teaches it to models whose template has none.
"""

from collections.abc import Sequence
from typing import Literal

from tokenizers import Tokenizer

from worker.rows.reasoning import CLOSING, OPENING
from worker.shared.partial_markers import undecided_chars

TAIL_TOKENS = 16
"""Number of tokens at the end of a prompt that hold an opening tag, even if each token is one byte."""

Part = Literal["start", "opened", "reasoning", "closed", "content"]
"""The part that an answer has reached: "opened" is the white space after the opening tag, "closed" the white space
after the closing tag."""


class ReasoningReader:
    """Separates the reasoning of a growing answer from its content."""

    def __init__(self, part: Part) -> None:
        self.part: Part = part
        self._held = ""

    @property
    def inside(self) -> bool:
        """Return whether the answer has reasoning, and no content yet."""
        return self.part in ("opened", "reasoning", "closed")

    @property
    def undecided(self) -> int:
        """Return the number of characters that are either content or the beginning of the opening tag."""
        return len(self._held) if self.part == "start" else 0

    def add(self, text: str) -> tuple[str, str]:
        """Add text to the answer. Return the new reasoning and the new content, without the tags and the white space
        around the reasoning."""
        self._held += text
        reasoning = ""
        if self.part == "start":
            self._open()
        if self.part == "opened":
            self._skip_space("reasoning")
        if self.part == "reasoning":
            reasoning = self._next_reasoning()
        if self.part == "closed":
            self._skip_space("content")
        return reasoning, self._release(len(self._held)) if self.part == "content" else ""

    def finish(self) -> tuple[str, str]:
        """Return the rest of the reasoning and of the content."""
        rest = self._release(len(self._held))
        return (rest.rstrip(), "") if self.part == "reasoning" else ("", rest)

    def _open(self) -> None:
        head = self._held.lstrip()
        if head.startswith(OPENING):
            self.part, self._held = "opened", head.removeprefix(OPENING)
        elif not OPENING.startswith(head):
            self.part = "content"

    def _skip_space(self, following: Part) -> None:
        self._held = self._held.lstrip()
        if self._held:
            self.part = following

    def _next_reasoning(self) -> str:
        before, closing, after = self._held.partition(CLOSING)
        if not closing:
            return self._release(len(self._held) - undecided_chars(self._held, CLOSING))
        self.part, self._held = "closed", after
        return before.rstrip()

    def _release(self, size: int) -> str:
        text, self._held = self._held[:size], self._held[size:]
        return text


def first_part(tokenizer: Tokenizer, prompt: Sequence[int]) -> Part:
    """Return the part with which the answer to a prompt begins: some generation prompts open the reasoning."""
    tail = tokenizer.decode(list(prompt[-TAIL_TOKENS:]), skip_special_tokens=False)
    return "opened" if tail.rstrip().endswith(OPENING) else "start"


def content_of(answer: str, part: Part) -> str:
    """Return a whole answer without its reasoning. `part`: the part with which it begins."""
    reader = ReasoningReader(part)
    _, content = reader.add(answer)
    return content + reader.finish()[1]
