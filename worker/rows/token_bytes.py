"""The bytes of each token of a byte-level tokenizer. Their lengths show where the tokens are in a text. The tokenizer's
own offsets show that, too, but recording offsets takes longer than computing the tokens."""

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders

from worker.rows.spans import Span


class TokenBytes:
    def __init__(self, tokens: list[bytes]) -> None:
        self.tokens = tokens
        """The bytes of each token, by its id."""
        self.lengths = np.array([len(token) for token in tokens], np.int64)

    @classmethod
    def load(cls, tokenizer: Tokenizer) -> "TokenBytes | None":
        """Return the bytes of the tokenizer's tokens, or None if the tokenizer is not byte-level."""
        if not isinstance(tokenizer.decoder, decoders.ByteLevel):
            return None
        added = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items()}
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        tokens = [b""] * (max(vocabulary.values(), default=-1) + 1)
        byte_of = _byte_of_character()
        try:
            for token, number in vocabulary.items():
                text = added.get(number)
                tokens[number] = token.translate(byte_of).encode("latin-1") if text is None else text.encode()
        except UnicodeEncodeError:
            return None
        return cls(tokens)

    def weights(
        self, ids: list[int], ids_T: npt.NDArray[np.int32], text: str, spans: Sequence[Span], rest: float
    ) -> npt.NDArray[np.float32] | None:
        """Return the weight of each token: the weight of the span that the token overlaps, else `rest`. Return
        None if the bytes of the tokens differ from those of the text, because the tokenizer has changed the text."""
        borders = [0, *(border for span in spans for border in (span.start, span.end)), len(text)]
        pieces = [text[begin:end].encode() for begin, end in itertools.pairwise(borders)]
        if b"".join(map(self.tokens.__getitem__, ids)) != b"".join(pieces):
            return None
        lengths_T = self.lengths[ids_T]
        ends_T = np.cumsum(lengths_T)
        starts_T = ends_T - lengths_T
        weights_T = np.full(len(ids), rest, np.float32)
        at = np.cumsum([len(piece) for piece in pieces])
        for number, span in enumerate(spans):
            first = np.searchsorted(ends_T, at[2 * number], side="right")
            last = np.searchsorted(starts_T, at[2 * number + 1], side="left")
            weights_T[first:last] = span.weight
        return weights_T


def _byte_of_character() -> dict[int, int]:
    """Return {code point: byte} for the characters with which byte-level tokenizers write bytes. Printable bytes have
    their own code points, the other bytes code points from 256 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: byte for byte in printable} | {256 + number: byte for number, byte in enumerate(others)}
