"""The bytes that a token stands for: part of a character, at times."""

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
        self._added = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items()}

    def of(self, number: int) -> bytes:
        """Empty for a number that the tokenizer has no token for: vocabularies are padded."""
        if number in self._added:
            return self._added[number].encode()
        token = self._tokenizer.id_to_token(number)
        if token is None:
            return b""
        if self._byte_level:
            return bytes(_bytes_of_letters()[letter] for letter in token if letter in _bytes_of_letters())
        if match := _BYTE.fullmatch(token):
            return bytes([int(match[1], 16)])
        return token.replace("▁", " ").encode()


@cache
def _bytes_of_letters() -> dict[str, int]:
    """The letters by which byte-level tokenizers write bytes (Radford et al. 2019): printable ones are themselves, the
    others follow from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
