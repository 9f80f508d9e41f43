"""What every reader of rows has in common."""

from collections.abc import Iterator
from dataclasses import dataclass

from api.formats import Row, RowError

Rows = Iterator[tuple[int, Row | RowError | None]]
"""(line or row number from 1, what stands there: a row, why it is none, or None for a blank line)."""


@dataclass(frozen=True)
class ReadLimits:
    line_bytes: int
    """Longest line, or row in another container."""
    rows: int = 5_000_000
    decompressed_bytes: int = 16 << 30


class FileError(Exception):
    """The file, or what is left of it, cannot be read."""

    def __init__(self, message: str, *, code: str, number: int | None = None) -> None:
        super().__init__(message)
        self.message, self.code = message, code
        self.number = number
        """The line or row at which reading ended; None where the file as a whole is no file of rows."""
