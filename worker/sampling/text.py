"""The text of an answer while it is generated: whole characters only, without reasoning, and nothing that may begin a
stop string."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from worker.rows.reasoning_reader import Part, ReasoningReader
from worker.sampling.token_sampler import SampledToken
from worker.shared.partial_markers import partial_marker_chars

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What incomplete characters are decoded to."""


@dataclass(frozen=True)
class TextDelta:
    """Text that may be sent to the client."""

    text: str = ""
    tokens: list[tuple[int, SampledToken]] = field(default_factory=list)
    """(offset, token) of the tokens that make up the text. An offset counts characters from the start of the answer."""
    reasoning: str = ""
    """Reasoning, which comes before the text."""


class AnswerText:
    """Decodes tokens as they are generated, and holds back text that may be the beginning of a stop string."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str],
        *,
        given: Sequence[int] = (),
        with_special_tokens: bool = False,
        part: Part = "content",
    ) -> None:
        """`given`: the prompt's tokens, if the answer continues the prompt's text: they decide whether the answer
        begins with a space. `with_special_tokens`: special tokens are a part of the text, because some models begin
        calls with one. `part`: the part with which the answer begins; only the content may hold a stop string."""
        self._tokenizer, self._stop = tokenizer, stop
        self._reasoning = ReasoningReader(part)
        self._decoder = DecodeStream(ids=list(given), skip_special_tokens=not with_special_tokens)
        self._undecided = ""
        """The end of the prompt that may be the beginning of a character: it does not belong to the answer."""
        if tokenizer.decode(list(given)).endswith(REPLACEMENT):
            self._read_prompt(given)
        self._held, self._released_chars = "", 0
        self._held_tokens: deque[tuple[int, SampledToken]] = deque()
        self.stopped = False
        """Whether a stop string was generated. The stop string and everything after it are not part of the answer."""
        self.reasoning_tokens = 0
        """Number of tokens of the reasoning, with its tags."""

    def _read_prompt(self, prompt: Sequence[int]) -> None:
        """Pass the prompt's tokens to the decoder one by one. Given all at once, a prompt that ends within a character
        would be decoded again with the answer's first token."""
        self._decoder = DecodeStream(skip_special_tokens=True)
        whole = sum(len(self._decoder.step(self._tokenizer, token) or "") for token in prompt)
        self._undecided = self._tokenizer.decode(list(prompt))[whole:]

    def add(self, token: SampledToken) -> TextDelta:
        """Add a token. Return the text that is now safe to send."""
        self._held_tokens.append((self._released_chars + len(self._held) + self._reasoning.undecided, token))
        if not (text := self._decoder.step(self._tokenizer, token.id)):
            return TextDelta()
        text, self._undecided = text.removeprefix(self._undecided), ""
        reasoning, content = self._reasoning.add(text)
        self._drop_tokens_of_reasoning()
        return replace(self._add_content(content), reasoning=reasoning)

    def echo(self, prompt: Sequence[SampledToken]) -> TextDelta:
        """Return the text of the prompt. Offsets in the answer continue after it."""
        decoder = DecodeStream(skip_special_tokens=True)
        text, tokens = "", []
        for token in prompt:
            tokens.append((len(text), token))
            text += decoder.step(self._tokenizer, token.id) or ""
        self._released_chars, self._undecided = len(text), ""
        return TextDelta(text, tokens)

    def end(self, token: SampledToken) -> None:
        """Add the answer's end token, which has no text."""
        self._held_tokens.append((self._released_chars + len(self._held), token))

    def finish(self) -> TextDelta:
        """Return the text that was held back, without bytes of an incomplete character."""
        self._drop_tokens_of_reasoning()
        reasoning, content = self._reasoning.finish()
        first = self._add_content(content)
        if self.stopped:
            return first
        last = self._release(len(self._held))
        rest = list(self._held_tokens)
        self._held_tokens.clear()
        return TextDelta(first.text + last.text, first.tokens + last.tokens + rest, reasoning)

    def _add_content(self, text: str) -> TextDelta:
        self._held += text
        starts = [start for stop in self._stop if (start := self._held.find(stop)) >= 0]
        if starts:
            self.stopped = True
            return self._release(min(starts))
        return self._release(len(self._held) - partial_marker_chars(self._held, self._stop))

    def _drop_tokens_of_reasoning(self) -> None:
        if self._reasoning.inside:
            self.reasoning_tokens += len(self._held_tokens)
            self._held_tokens.clear()

    def _release(self, size: int) -> TextDelta:
        text, self._held = self._held[:size], self._held[size:]
        self._released_chars += size
        tokens = []
        while self._held_tokens and self._held_tokens[0][0] < self._released_chars:
            tokens.append(self._held_tokens.popleft())
        return TextDelta(text, tokens)
