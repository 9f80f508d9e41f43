"""Parquet, read by a separate process (worker.rows.readers.parquet_child).

Native code decodes the pages. A damaged file can make that code allocate without bound or crash, which then ends only
the separate process.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from api.spec.formats import RowError
from worker.rows.readers.base import FileError, ReadLimits, Rows
from worker.rows.readers.jsonl import decode_line, read_lines

PARQUET = b"PAR1"
MEMORY_BYTES = 512 << 20
"""Memory limit of the separate process, which holds a batch of rows, a page and a dictionary of each column, and the
library itself."""
ROW_ERROR, FILE_ERROR = b"!", 2
"""The first byte of an output line that holds the error of a row, and the exit code for an unreadable file."""


def read_parquet(path: Path, limits: ReadLimits) -> Rows:
    if find_spec("pyarrow") is None:
        raise FileError(
            "is a Parquet file, and pyarrow, which reads it, is not installed on this machine. Install Attune with "
            "'.[worker]' there, or write the rows as JSON lines",
            code="no_parquet_reader",
        )
    arguments = [str(argument) for argument in (path, limits.rows, limits.decompressed_bytes, MEMORY_BYTES)]
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", "worker.rows.readers.parquet_child", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"},  # other pools reserve address space
        )
        assert child.stdout is not None
        try:
            for number, line in read_lines(child.stdout, limits.line_bytes):
                if isinstance(line, bytes) and line.startswith(ROW_ERROR):
                    problem = json.loads(line[len(ROW_ERROR) :])
                    yield number, RowError(problem["message"], code=problem["code"])
                else:
                    yield number, decode_line(line)
            _require_success(child.wait(), errors)
        finally:
            child.kill()
            child.stdout.close()
            child.wait()


def _require_success(code: int, errors: IO[bytes]) -> None:
    if code == 0:
        return
    errors.seek(0)
    output = errors.read(1 << 20)
    if code == FILE_ERROR:
        problem = json.loads(output.splitlines()[-1])
        raise FileError(problem["message"], code=problem["code"])
    sys.stderr.write(output.decode(errors="replace"))
    reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    raise FileError(f"cannot be read as Parquet: the reading process crashed ({reason})", code="damaged")
