"""CSV with a header: columns are keys, and a cell may hold JSON where the key asks for more than a text."""

import csv
import re
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from api.spec.formats import KEYS, Row, RowError
from api.spec.formats.base import truncate
from api.spec.formats.structured import structure_in
from worker.rows.readers.base import MAX_KEYS, FileError, ReadLimits, Rows
from worker.rows.readers.jsonl import BOM, read_lines
from worker.rows.readers.other_kinds import refuse_no_text

DELIMITERS = (",", ";", "\t")
BAR = "|"
"""Separates columns in tables that are not read."""
DELIMITER_LINE = re.compile(r"sep=([,;\t])", re.IGNORECASE)
"""A first line that tells a spreadsheet what stands between the columns."""
ROW_NUMBER = re.compile(r"Unnamed: [0-9]+")
"""What pandas calls a column without a name, which holds the numbers of rows."""
STRUCTURED = frozenset({"messages", "conversations", "tools", "functions"})
"""Keys whose cells are JSON in every format. Other cells are texts, in which a format may find more."""


def delimiter_of(head: bytes) -> str | None:
    """What stands between the columns, if the first line names one that a format reads; None if it is no header.

    FileError if it is a line of a table nevertheless.
    """
    line = _first_line(head.removeprefix(BOM))
    if names := DELIMITER_LINE.fullmatch(line):
        return names.group(1)
    for delimiter in DELIMITERS:
        if KEYS & set(_keys(_cells(line, delimiter))):
            return delimiter
    if KEYS & set(_cells(line, BAR)):
        raise FileError(
            f"is a table whose columns are separated by {BAR}; separate them by commas, semicolons or tabs",
            code="unsupported_container",
        )
    refuse_no_text(head)
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
            # Whoever writes a space behind each comma does not mean it.
            table = csv.reader(_Lines(file, limits.line_bytes), delimiter=delimiter, strict=True, skipinitialspace=True)
        header = _keys(name.strip() for name in names)
    except (csv.Error, RowError) as error:
        raise FileError(f"has a header that cannot be read: {error}", code="no_header") from None
    if len(header) > MAX_KEYS:
        raise FileError(f"has {len(header):,} columns, and a table may have {MAX_KEYS:,}", code="too_many_columns")
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
    """The first line that is not blank and names columns."""
    for cells in table:
        if cells and not (cells[0].lower() == "sep=" and not any(cells[1:])):
            return cells
    raise RowError("it is empty")


class _Lines(Iterator[str]):
    """Lines as the csv module wants them; unlike a generator it can go on after an error."""

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
    """Names of columns as formats know them: spreadsheets like to begin them with a capital."""
    given = list(names)
    return [name.lower() if name.lower() in KEYS and name.lower() not in given else name for name in given]


def _row(header: list[str], cells: list[str]) -> Row | RowError:
    if len(cells) != len(header):
        return RowError(f"has {len(cells)} cells, and the header has {len(header)}", code="ragged_row")
    try:
        # A column without a name is the row number that some programs write; an empty cell is no value.
        return {name: _value(name, cell) for name, cell in zip(header, cells, strict=True) if name and cell}
    except RowError as error:
        return error


def _value(name: str, cell: str) -> Any:
    if name in STRUCTURED:
        held = structure_in(cell)
        return cell if held is None else held  # formats say what is wrong with it
    if name in ("label", "labels") and cell.lstrip().startswith("["):
        names = structure_in(cell)
        return names if isinstance(names, list) and not any(isinstance(each, dict | list) for each in names) else cell
    return cell


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []
