"""Lines of JSON from strangers: read one at a time, each either an object or a reason why it is not."""

import json
from collections.abc import Iterator
from typing import IO, Any

import msgspec

from api.spec.formats.base import Row, RowError, kind, truncate
from worker.rows.readers.base import MAX_KEYS, ReadLimits, Rows
from worker.rows.readers.explaining import explained

BOM = b"\xef\xbb\xbf"
_decoder = msgspec.json.Decoder()


def read_json_lines(file: IO[bytes], limits: ReadLimits) -> Rows:
    for number, line in read_lines(file, limits.line_bytes):
        yield number, decoded(line)


def decoded(line: bytes | RowError) -> Row | RowError | None:
    """What a line holds; None where it is blank."""
    if isinstance(line, RowError):
        return line
    if not line.strip():
        return None
    try:
        return decode(line)
    except RowError as error:
        return error


def read_lines(file: IO[bytes], line_bytes: int) -> Iterator[tuple[int, bytes | RowError]]:
    """(line number, line without its end), a line too long replaced by its error and never held in memory."""
    number = 0
    while line := file.readline(line_bytes + 2):
        number += 1
        if number == 1:
            line = line.removeprefix(BOM)
        content = line.rstrip(b"\r\n")
        if len(content) <= line_bytes:
            yield number, content
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(1 << 16)
        yield number, RowError(f"is longer than {line_bytes:,} bytes", code="line_too_long")


def decode(line: bytes) -> Row:
    """The object in a line; RowError for whatever is not exactly one JSON object of characters and finite numbers."""
    try:
        row = _decoder.decode(line)
        _refuse_duplicate_keys(line)
        has_nul = b"\\u0000" in line and _has_nul(row)
    except RecursionError:
        raise RowError("is nested too deeply", code="invalid_json") from None
    except UnicodeDecodeError:
        raise RowError("is not valid UTF-8: save the file in UTF-8", code="invalid_utf8") from None
    except msgspec.MsgspecError as error:
        raise explained(line, str(error)) from None
    if not isinstance(row, dict):
        raise RowError(f"must be a JSON object, not {kind(row)}", code="not_an_object")
    if len(row) > MAX_KEYS:
        raise RowError(f"has {len(row):,} keys, and a row may have {MAX_KEYS:,}", code="too_many_keys")
    if has_nul:
        raise RowError("contains the character NUL (\\u0000)", code="nul_character")
    return row


def _refuse_duplicate_keys(line: bytes) -> None:
    """A repeated key would silently lose a value. msgspec cannot tell; the standard library's decoder can."""
    json.loads(line, object_pairs_hook=_object, parse_int=str)  # whose length the library limits


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise RowError(f"has the key '{truncate(repeated)}' twice in one object", code="duplicate_key")
    return result


def _has_nul(value: Any) -> bool:
    if isinstance(value, dict):
        return any("\0" in key or _has_nul(entry) for key, entry in value.items())
    if isinstance(value, list):
        return any(map(_has_nul, value))
    return isinstance(value, str) and "\0" in value
