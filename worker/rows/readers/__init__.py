"""The rows of a user's file, whatever its container. The first bytes decide the container, never the file's name."""

from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from api.spec.formats import RowError
from worker.rows.readers.base import FileError, ReadLimits, Rows
from worker.rows.readers.compressed import open_compressed
from worker.rows.readers.json_array import read_json_array
from worker.rows.readers.jsonl import read_json_lines, read_lines
from worker.rows.readers.parquet import PARQUET, read_parquet
from worker.rows.readers.plain_chat import PlainChat
from worker.rows.readers.table import delimiter_of, read_table
from worker.rows.readers.unsupported import reject_no_rows, reject_unsupported

HEAD_BYTES = 1 << 16


def open_rows(path: Path, limits: ReadLimits) -> tuple[str, Rows]:
    """Return the container (parquet, json, csv or jsonl) and its rows. Raises FileError, also while rows are read."""
    container, rows = _open_container(path, limits)
    return container, _limited(rows, limits.rows)


def open_texts(path: Path, container: str, limits: ReadLimits) -> Iterator[tuple[int, bytes]]:
    """Yield each row's number and text. In JSON Lines, they are the number and the text of the line, even if it is not
    valid JSON; lines that are too long are left out. In other containers, the text is the row as JSON, and invalid
    rows are left out. Raises FileError."""
    if container == "jsonl":
        for number, line in read_lines(_open(path, limits), limits.line_bytes):
            if not isinstance(line, RowError):
                yield number, line
        return
    for number, row in _open_container(path, limits)[1]:
        if isinstance(row, PlainChat):
            yield number, row.line
        elif row is not None and not isinstance(row, RowError):
            yield number, msgspec.json.encode(row)


def _limited(rows: Rows, max_rows: int) -> Rows:
    count = 0
    for number, row in rows:
        count += row is not None
        if count > max_rows:
            raise FileError(f"has more than {max_rows:,} rows", code="too_many_rows")
        yield number, row


def _open_container(path: Path, limits: ReadLimits) -> tuple[str, Rows]:
    with path.open("rb") as file:
        if file.read(4) == PARQUET:
            return "parquet", read_parquet(path, limits)
    with _open(path, limits) as file:
        head = file.read(HEAD_BYTES)
    reject_unsupported(head)
    begin = head.removeprefix(BOM_UTF8).lstrip()[:1]
    if begin == b"[":
        return "json", read_json_array(_open(path, limits), limits)
    delimiter = None if begin in (b"{", b"") else delimiter_of(head)
    if delimiter is not None:
        return "csv", read_table(_open(path, limits), delimiter, limits)
    reject_no_rows(head)
    return "jsonl", read_json_lines(_open(path, limits), limits)


def _open(path: Path, limits: ReadLimits) -> BinaryIO:
    return open_compressed(path, limits) or path.open("rb")


__all__ = ["FileError", "PlainChat", "ReadLimits", "Rows", "open_rows", "open_texts"]
