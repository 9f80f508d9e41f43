"""One JSON array of rows, read element by element. Only the current element is in memory."""

import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import BinaryIO

from api.spec.formats import RowError
from worker.rows.readers.base import FileError, ReadLimits, Rows
from worker.rows.readers.jsonl import decode_object
from worker.rows.readers.plain_chat import find_plain_chat

CHUNK_BYTES = 1 << 18
TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{},"]', re.DOTALL)
"""Matches a whole string or a structural character. If it matches only a quotation mark, the string's end has not been
read yet."""


def read_json_array(file: BinaryIO, limits: ReadLimits) -> Rows:
    for number, element in enumerate(_elements(file, limits.line_bytes), start=1):
        try:
            yield number, find_plain_chat(element) or decode_object(element)
        except RowError as error:
            yield number, error


def _elements(file: BinaryIO, max_bytes: int) -> Iterator[bytes]:
    """Yield the text of each element of the outermost array."""
    text = file.read(CHUNK_BYTES).removeprefix(BOM_UTF8).lstrip()[1:]  # open_rows has checked the bracket
    depth, begin, at, any_element = 1, 0, 0, False
    while True:
        token = TOKEN.search(text, at)
        if token is None or token.group() == b'"':
            # More text is needed. The part before `at` contains no token, so it is not searched again.
            at = (len(text) if token is None else token.start()) - begin
            chunk = file.read(CHUNK_BYTES)
            text, begin = text[begin:] + chunk, 0
            if not chunk:
                raise FileError("is incomplete: its JSON array has no end", code="cut_off")
            if len(text) > max_bytes + CHUNK_BYTES:
                raise FileError(f"has a row of more than {max_bytes:,} bytes", code="line_too_long")
            continue
        at = token.end()
        character = token.group()[:1]
        if character in b"[{":
            depth += 1
        elif character in b"]}":
            depth -= 1
        if depth == 0 or (depth == 1 and character == b","):
            element = text[begin : token.start()].strip()
            if depth or element or any_element:  # an empty array has no element
                yield element
            begin, any_element = at, True
        if depth == 0:
            if text[at:].strip() or file.read(CHUNK_BYTES).strip():
                raise FileError("has more text after the end of its JSON array", code="invalid_json")
            return
