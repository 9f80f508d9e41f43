"""An answer's text while it grows: whole characters only, and nothing that may turn out to be a stop string."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from worker.sampling.draw import Drawn


@dataclass(frozen=True)
class Piece:
    """What may be told."""

    text: str = ""
    tokens: list[tuple[int, Drawn]] = field(default_factory=list)
    """The tokens whose text that is, with the character of the answer at which each of them begins."""


class AnswerText:
    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], *, given: Sequence[int] = ()) -> None:
        """`given`: tokens that the answer continues, where their text decides the first one's (a space before it)."""
        self._tokenizer, self._stop = tokenizer, stop
        self._decoder = DecodeStream(ids=list(given), skip_special_tokens=True)
        self._held, self._told = "", 0
        self._waiting: deque[tuple[int, Drawn]] = deque()
        self.stopped = False
        """A stop string has come: it and all that follows are no part of the answer."""

    def add(self, token: Drawn) -> Piece:
        self._waiting.append((self._told + len(self._held), token))
        self._held += self._decoder.step(self._tokenizer, token.id) or ""
        found = [place for stop in self._stop if (place := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._tell(min(found))
        return self._tell(len(self._held) - self._maybe_stop())

    def finish(self) -> Piece:
        """What was held back. Bytes that are no whole character are left out."""
        if self.stopped:
            return Piece()
        piece = self._tell(len(self._held))
        rest = list(self._waiting)
        self._waiting.clear()
        return Piece(piece.text, piece.tokens + rest)

    def _maybe_stop(self) -> int:
        """Characters at the end with which a stop string may begin."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        sizes = range(min(longest, len(self._held)), 0, -1)
        ends = (size for size in sizes if any(stop.startswith(self._held[-size:]) for stop in self._stop))
        return next(ends, 0)

    def _tell(self, size: int) -> Piece:
        text, self._held = self._held[:size], self._held[size:]
        self._told += size
        tokens = []
        while self._waiting and self._waiting[0][0] < self._told:
            tokens.append(self._waiting.popleft())
        return Piece(text, tokens)
