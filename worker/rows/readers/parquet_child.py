"""`python -m worker.rows.readers.parquet_child FILE ROWS BYTES MEMORY`: prints the rows of a Parquet file as lines of
JSON.

Exit code 0: all rows are printed. Exit code 2: some rows are not printed, and the last line on stderr is a JSON object
with the reason.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from api.spec.formats import KEYS, Row
from worker.rows.limits import limit_process
from worker.rows.readers.base import MAX_KEYS, FileError, ReadLimits
from worker.rows.readers.parquet import FILE_ERROR, PARQUET, ROW_ERROR

ROW_NUMBER = re.compile(r"__index_level_[0-9]+__")
"""pandas's name for an index without a name, which holds row numbers."""
BATCH_ROWS = 16
"""Number of rows decoded at once. It is small, because columns with few distinct values are small in the file but large
as rows."""
MAX_FOOTER_BYTES = 16 << 20


def main(path: Path, limits: ReadLimits, memory_bytes: int) -> int:
    pa.set_cpu_count(1)
    limit_process(memory_bytes=memory_bytes, cpu_seconds=None, file_bytes=None)
    try:
        _write_rows(path, limits, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    except FileError as error:
        return _fail(str(error), error.code)
    except MemoryError:
        return _fail("has rows or pages that are too large to read; write it with smaller row groups", "too_large")
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        return _fail(f"cannot be read as Parquet: {reason}", "damaged")
    return 0


def _fail(message: str, code: str) -> int:
    sys.stderr.write("\n" + json.dumps({"message": message, "code": code}))
    return FILE_ERROR


def _write_rows(path: Path, limits: ReadLimits, output: IO[bytes]) -> None:
    file_bytes = path.stat().st_size
    _check_ends(path, file_bytes)
    # The footer states the number of rows and bytes, but the pages may hold more: both are checked.
    file = pq.ParquetFile(
        path, thrift_string_size_limit=MAX_FOOTER_BYTES, thrift_container_size_limit=MAX_FOOTER_BYTES // 16
    )
    footer = file.metadata
    if footer.num_columns > MAX_KEYS:
        raise FileError(f"has more than {MAX_KEYS:,} columns", code="too_many_columns")
    if footer.num_rows > limits.rows:
        raise FileError(f"has more than {limits.rows:,} rows", code="too_many_rows")
    limits.check_growth(
        sum(footer.row_group(group).total_byte_size for group in range(footer.num_row_groups)), file_bytes
    )
    rows = bytes_out = 0
    for line in _lines(file):
        rows, bytes_out = rows + 1, bytes_out + len(line)
        limits.check_growth(bytes_out, file_bytes)
        output.write(line + b"\n")
    if rows != footer.num_rows:
        raise FileError(f"has {rows:,} rows, but its footer states {footer.num_rows:,}", code="damaged")


def _check_ends(path: Path, file_bytes: int) -> None:
    with path.open("rb") as file:
        file.seek(max(0, file_bytes - 8))
        tail = file.read()
    if file_bytes < 12 or not tail.endswith(PARQUET):
        raise FileError("is incomplete: it begins as a Parquet file does, but does not end as one", code="cut_off")
    if int.from_bytes(tail[:4], "little") > min(MAX_FOOTER_BYTES, file_bytes - 12):
        raise FileError("cannot be read as Parquet: its footer has an impossible size", code="damaged")


def _lines(file: pq.ParquetFile) -> Iterator[bytes]:
    for batch in file.iter_batches(batch_size=BATCH_ROWS, use_threads=False):
        for at in range(batch.num_rows):
            try:
                [row] = batch.slice(at, 1).to_pylist(maps_as_pydicts="strict")
                yield msgspec.json.encode(_row(row))
            except UnicodeDecodeError:
                yield _row_error("is not valid UTF-8", "invalid_utf8")
            except TypeError as error:
                yield _row_error(f"has a value that JSON cannot hold: {error}", "invalid_type")
            except KeyError as error:
                yield _row_error(f"has a map with the same key twice: {error}", "duplicate_key")
            except (RecursionError, OverflowError):
                yield _row_error("has a value that JSON cannot hold", "invalid_type")


def _row_error(message: str, code: str) -> bytes:
    return ROW_ERROR + json.dumps({"message": message, "code": code}).encode()


def _row(row: Row) -> Row:
    """Return the row without pandas's row numbers. In keys that no format reads, a note replaces bytes that are not
    text."""
    kept = {}
    for key, value in row.items():
        if value is None or ROW_NUMBER.fullmatch(key):
            continue
        try:
            kept[key] = _plain(value)
        except UnicodeDecodeError:
            if key in KEYS:
                raise
            kept[key] = "(bytes that are no text)"
    return kept


def _plain(value: object) -> object:
    """Return the value in the form of JSON, without nulls: a column has a value in every row, so null stands for a
    missing key."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return value.decode() if isinstance(value, bytes) else value


if __name__ == "__main__":
    _, file, rows, decompressed_bytes, memory = sys.argv
    reading = ReadLimits(line_bytes=0, rows=int(rows), decompressed_bytes=int(decompressed_bytes))
    sys.exit(main(Path(file), reading, int(memory)))
