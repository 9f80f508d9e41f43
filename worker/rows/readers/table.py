"""CSV with a header: columns are keys. A cell may hold JSON if the key accepts more than a text."""

import csv
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from api.spec.formats import KEYS, Row, RowError
from api.spec.formats.base import truncate
from api.spec.formats.json_text import parse_json_text
from worker.rows.readers.base import MAX_KEYS, FileError, ReadLimits, Rows
from worker.rows.readers.jsonl import read_lines
from worker.rows.readers.unsupported import reject_binary

DELIMITERS = (",", ";", "\t")
BAR = "|"
"""The delimiter of a kind of table that is refused."""
DELIMITER_LINE = re.compile(r"sep=([,;\t])", re.IGNORECASE)
"""A first line that names the delimiter for spreadsheet programs."""
ROW_NUMBER = re.compile(r"Unnamed: [0-9]+")
"""pandas's name for a column without a name, which holds row numbers."""
STRUCTURED = frozenset({"messages", "conversations", "tools", "functions"})
"""Keys whose cells are JSON in every format. Other cells are texts, which a format may decode."""


def delimiter_of(head: bytes) -> str | None:
    """Return the delimiter if the first line is a header with a column that a format reads; None if it is not a header.

    Raises FileError if the file is not text, or seems to be a table without such columns or with an unsupported
    delimiter.
    """
    line = _first_line(head.removeprefix(BOM_UTF8))
    if names := DELIMITER_LINE.fullmatch(line):
        return names.group(1)
    for delimiter in DELIMITERS:
        if KEYS & set(_keys(_cells(line, delimiter))):
            return delimiter
    if KEYS & set(_cells(line, BAR)):
        raise FileError(
            f"is a table with columns separated by {BAR}; separate them by commas, semicolons or tabs",
            code="unsupported_container",
        )
    reject_binary(head)
    if any(len(_cells(line, delimiter)) > 1 for delimiter in DELIMITERS):
        raise FileError(
            f"has no column that a format reads in its first line ({truncate(line, 80)}): if it is CSV, that line must "
            "name the columns, such as prompt,completion or text,label",
            code="no_header",
        )
    return None


def _first_line(text: bytes) -> str:
    return text.lstrip(b"\r\n").partition(b"\n")[0].decode(errors="replace").rstrip("\r")


def read_table(file: BinaryIO, delimiter: str, limits: ReadLimits) -> Rows:
    csv.field_size_limit(limits.line_bytes)
    table = csv.reader(_Lines(file, limits.line_bytes), delimiter=delimiter, strict=True)
    try:
        names = _header(table)
        if len(names) > 1 and all(name.startswith(" ") for name in names[1:]):
            # A space after every comma is not part of the names, nor of the cells.
            table = csv.reader(_Lines(file, limits.line_bytes), delimiter=delimiter, strict=True, skipinitialspace=True)
        header = _keys(name.strip() for name in names)
    except (csv.Error, RowError) as error:
        raise FileError(f"has an invalid header: {error}", code="no_header") from None
    if len(header) > MAX_KEYS:
        raise FileError(f"has {len(header):,} columns, but at most {MAX_KEYS:,} are allowed", code="too_many_columns")
    header = ["" if ROW_NUMBER.fullmatch(name) else name for name in header]
    repeated = next((name for name in header if name and header.count(name) > 1), None)
    if repeated:
        raise FileError(f"has two columns named '{truncate(repeated)}'", code="duplicate_key")
    number = 0
    while True:
        try:
            cells = next(table)
            if not cells:
                continue  # a blank line
            number += 1
            yield number, _row(header, cells)
        except StopIteration:
            return
        except csv.Error as error:
            number += 1
            yield number, RowError(f"is not valid CSV: {error}", code="invalid_csv")
        except RowError as error:
            number += 1
            yield number, error


def _header(table: Iterator[list[str]]) -> list[str]:
    """Return the first line that is not blank and names columns. Raises RowError if there is none."""
    for cells in table:
        if cells and not (cells[0].lower() == "sep=" and not any(cells[1:])):
            return cells
    raise RowError("it is empty")


class _Lines(Iterator[str]):
    """The lines of a file, for the csv module. Unlike a generator, this iterator can continue after it has raised an
    error."""

    def __init__(self, file: BinaryIO, line_bytes: int) -> None:
        self._lines = read_lines(file, line_bytes)

    def __next__(self) -> str:
        _, line = next(self._lines)
        if isinstance(line, RowError):
            raise line
        if b"\0" in line:
            raise RowError("contains the character NUL", code="nul_character")
        try:
            return line.decode() + "\n"
        except UnicodeDecodeError:
            raise RowError("is not valid UTF-8: save the file in UTF-8", code="invalid_utf8") from None


def _keys(names: Iterable[str]) -> list[str]:
    """Return the names of columns, in lower case if that makes them keys that formats read: spreadsheet programs
    capitalize names."""
    given = list(names)
    return [name.lower() if name.lower() in KEYS and name.lower() not in given else name for name in given]


def _row(header: list[str], cells: list[str]) -> Row | RowError:
    if len(cells) != len(header):
        return RowError(f"has {len(cells)} cells, but the header has {len(header)}", code="ragged_row")
    try:
        # Some programs write row numbers without a column name. An empty cell is no value.
        return {name: _value(name, cell) for name, cell in zip(header, cells, strict=True) if name and cell}
    except RowError as error:
        return error


def _value(name: str, cell: str) -> object:
    if name in STRUCTURED:
        decoded = parse_json_text(cell)
        return cell if decoded is None else decoded  # the format reports the error
    if name in ("label", "labels") and cell.lstrip().startswith("["):
        names = parse_json_text(cell)
        return names if isinstance(names, list) and not any(isinstance(name, dict | list) for name in names) else cell
    return cell


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []
