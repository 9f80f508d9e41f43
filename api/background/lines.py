"""Splits a file that arrives in chunks into its lines."""

from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator


class LineTooLong(Exception):
    def __init__(self, number: int, longest: int) -> None:
        super().__init__(number, longest)
        self.number = number
        self.message = f"The line is longer than {longest} bytes, the most that this server takes"


def numbered_lines(chunks: Iterable[bytes], longest: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield the number (from 1), the position in bytes and the content of each line that is not blank.

    A byte order mark before the first line is skipped. Raise LineTooLong for a line of more than `longest` bytes.
    """
    for number, start, content in _lines(chunks, longest):
        text = content.removeprefix(BOM_UTF8) if number == 1 else content
        if text.strip():
            yield number, start + len(content) - len(text), text


def _lines(chunks: Iterable[bytes], longest: int) -> Iterator[tuple[int, int, bytes]]:
    rest, start, number = b"", 0, 1
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for content in (*whole, rest) if len(rest) > longest else whole:
            if len(content) > longest:
                raise LineTooLong(number, longest)
            yield number, start, content
            start += len(content) + 1
            number += 1
    yield number, start, rest
