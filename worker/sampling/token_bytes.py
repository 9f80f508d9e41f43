"""The bytes of a token. They may be only a part of a character."""

import json
import re
from functools import cache

from tokenizers import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenBytes:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        decoder = json.dumps(json.loads(tokenizer.to_str())["decoder"])
        self._byte_level = '"ByteLevel"' in decoder
        self._added = {token_id: token.content for token_id, token in tokenizer.get_added_tokens_decoder().items()}

    def of(self, token_id: int) -> bytes:
        """Return the token's bytes; empty for ids that only pad the vocabulary and belong to no token."""
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if self._byte_level:
            return bytes(_byte_of_char()[char] for char in token if char in _byte_of_char())
        if match := _BYTE.fullmatch(token):
            return bytes([int(match[1], 16)])
        return token.replace("▁", " ").encode()


@cache
def _byte_of_char() -> dict[str, int]:
    """Return the byte that each character stands for in byte-level tokenizers (Radford et al. 2019).

    A printable byte is written as the character with the same number. All other bytes are written as the characters
    from number 256 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}
