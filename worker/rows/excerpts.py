"""The beginnings of the rows that findings are about, for a reader who does not have the file at hand."""

import contextlib
from collections import Counter
from collections.abc import Iterable

import msgspec

from worker.rows.findings import Finding
from worker.rows.limits import CpuTimeUsedUp
from worker.rows.readers import FileError

ROWS_PER_CODE = 5
MAX_ROWS = 40
MAX_CHARACTERS = 500


class Excerpt(msgspec.Struct):
    line: int
    """The number of the row's line in a JSONL file; in other containers, the number of the row."""
    text: str
    """The beginning of the row, at most MAX_CHARACTERS. For a JSONL file, the row's line as it is; for other
    containers, the row as JSON."""
    cut: bool
    """Whether the row continues after the text."""


def read_excerpts(rows: Iterable[tuple[int, bytes]], findings: Iterable[Finding]) -> list[Excerpt]:
    """Return excerpts of the first rows of each kind of finding. Rows that cannot be read have none.

    `rows`: the file's rows as `open_texts` yields them. Reading ends after the last row with an excerpt.
    """
    wanted = _rows_to_show(findings)
    excerpts: list[Excerpt] = []
    if not wanted:
        return excerpts
    last = max(wanted)
    with contextlib.suppress(FileError, MemoryError, CpuTimeUsedUp):
        for number, row in rows:
            if number in wanted:
                text = row.decode(errors="replace")
                excerpts.append(Excerpt(number, text[:MAX_CHARACTERS], len(text) > MAX_CHARACTERS))
            if number >= last:
                break
    return excerpts


def _rows_to_show(findings: Iterable[Finding]) -> set[int]:
    shown: Counter[str] = Counter()
    wanted: set[int] = set()
    for finding in findings:
        line, code = finding["line"], finding["code"]
        if line is not None and shown[code] < ROWS_PER_CODE and len(wanted | {line}) <= MAX_ROWS:
            shown[code] += 1
            wanted.add(line)
    return wanted
