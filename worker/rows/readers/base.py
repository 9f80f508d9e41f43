"""The rows, limits and errors that all readers share."""

from collections.abc import Iterator
from dataclasses import dataclass

from api.spec.formats import Row, RowError
from worker.rows.readers.plain_chat import PlainChat

Rows = Iterator[tuple[int, Row | PlainChat | RowError | None]]
"""For each row of a file: (its line or row number from 1; the row, the error of an invalid row, or None for a blank
line)."""

MAX_KEYS = 1_000
"""Maximum number of keys of a row, and of columns of a table. Formats read some forty keys; every other key causes a
finding."""
FREE_BYTES = 256 << 20
"""A file may always decompress to this size, however small the file is."""
MAX_RATIO = 200
"""Largest ratio of decompressed to compressed size above FREE_BYTES. Rows compress 3 to 30 times, very repetitive ones
100 times; gzip reaches 1,000."""


@dataclass(frozen=True)
class ReadLimits:
    """Limits on a file of rows."""

    line_bytes: int = 1 << 20
    """Maximum size of a line; in other containers, of a row."""
    rows: int = 5_000_000
    """Maximum number of rows; blank lines are not counted."""
    decompressed_bytes: int = 16 << 30
    """Maximum size of the file once it is decompressed."""

    def check_growth(self, bytes_out: int, file_bytes: int) -> None:
        """Raise FileError if a file decompresses to more than a genuine file of rows does."""
        if bytes_out > self.decompressed_bytes:
            raise FileError(
                f"is larger than {self.decompressed_bytes:,} bytes when decompressed", code="decompressed_too_large"
            )
        if bytes_out > max(FREE_BYTES, MAX_RATIO * file_bytes):
            raise FileError(
                f"decompresses to more than {MAX_RATIO} times its size, the allowed maximum",
                code="decompressed_too_large",
            )


class FileError(Exception):
    """The file, or the rest of it, cannot be read. `message` completes the sentence "The file …"."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.message, self.code = f"The file {message}.", code
