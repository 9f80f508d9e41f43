"""A reader of JSON lines, one at a time. It yields the object in each line, or the error if there is none."""

import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import IO

import msgspec

from api.spec.formats.base import Row, RowError, json_type, truncate
from worker.rows.readers.base import MAX_KEYS, ReadLimits, Rows
from worker.rows.readers.json_errors import explain_json_error
from worker.rows.readers.plain_chat import PlainChat, find_plain_chat

MAX_BRACKETS = 200
"""A line with at most this many opening brackets cannot be nested too deeply."""
_decoder = msgspec.json.Decoder()


def read_json_lines(file: IO[bytes], limits: ReadLimits) -> Rows:
    for number, line in read_lines(file, limits.line_bytes):
        yield number, decode_line(line)


def decode_line(line: bytes | RowError) -> Row | PlainChat | RowError | None:
    """Return the row in a line, the error if the line is invalid, or None if the line is blank."""
    if isinstance(line, RowError):
        return line
    if chat := find_plain_chat(line):
        return chat
    if not line.strip():
        return None
    try:
        return decode_object(line)
    except RowError as error:
        return error


def read_lines(file: IO[bytes], line_bytes: int) -> Iterator[tuple[int, bytes | RowError]]:
    """Yield (line number, line without its line end). A line that is too long is replaced by its error, and is never in
    memory as a whole."""
    number = 0
    while line := file.readline(line_bytes + 2):
        number += 1
        if number == 1:
            line = line.removeprefix(BOM_UTF8)
        content = line.rstrip(b"\r\n")
        if len(content) <= line_bytes:
            yield number, content
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(1 << 16)
        yield number, RowError(f"is longer than {line_bytes:,} bytes", code="line_too_long")


def decode_object(line: bytes) -> Row:
    """Return the JSON object in a line. Raises RowError if the line is not exactly one valid object, repeats a key, has
    too many keys, or contains the character NUL."""
    try:
        row = _decoder.decode(line)
        _refuse_duplicate_keys(line, row)
        has_nul = b"\\u0000" in line and _has_nul(row)
    except RecursionError:
        raise RowError("is nested too deeply", code="invalid_json") from None
    except UnicodeDecodeError:
        raise RowError("is not valid UTF-8: save the file in UTF-8", code="invalid_utf8") from None
    except msgspec.MsgspecError as error:
        raise explain_json_error(line, str(error)) from None
    if not isinstance(row, dict):
        raise RowError(f"must be a JSON object, not {json_type(row)}", code="not_an_object")
    if len(row) > MAX_KEYS:
        raise RowError(f"has {len(row):,} keys, but at most {MAX_KEYS:,} are allowed", code="too_many_keys")
    if has_nul:
        raise RowError("contains the character NUL (\\u0000)", code="nul_character")
    return row


def _refuse_duplicate_keys(line: bytes, row: object) -> None:
    """Raise RowError for a repeated key, which would silently lose a value. msgspec does not report repeated keys; the
    standard library can."""
    # msgspec drops a repeated key with its quotes, so an equal number of quotes shows that no key is repeated. The
    # standard library also reads lines that may be nested too deeply: its limit on nesting is lower than msgspec's.
    nested = line.count(b"{") + line.count(b"[") > MAX_BRACKETS
    if not nested and b"\\u0022" not in line and msgspec.json.encode(row).count(b'"') == line.count(b'"'):
        return
    json.loads(line, object_pairs_hook=_object, parse_int=str)  # parse_int: int() refuses very long integers


def _object(pairs: list[tuple[str, object]]) -> Row:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise RowError(f"has the key '{truncate(repeated)}' twice in one object", code="duplicate_key")
    return result


def _has_nul(value: object) -> bool:
    if isinstance(value, dict):
        return any("\0" in key or _has_nul(entry) for key, entry in value.items())
    if isinstance(value, list):
        return any(map(_has_nul, value))
    return isinstance(value, str) and "\0" in value
