"""`python -m worker.scan FOLDER`: detects the format of an uploaded file and checks its rows, before a job uses it.

A child behind the wall (docs/internals/wall.md): it reads FOLDER/scan.json and FOLDER/input, and writes
FOLDER/report.json. It knows no base model and tokenizes nothing: it checks each row by the rules of the row's format.
If the request names a method, only that method's formats are accepted. Exit code 0: report.json holds the outcome, even
if the file is invalid.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from api.spec.catalog import METHODS
from worker.rows.child_io import RowLimits, write_report
from worker.rows.excerpts import Excerpt, read_excerpts
from worker.rows.findings import Finding
from worker.rows.limits import CpuTimeUsedUp
from worker.rows.readers import FileError, ReadLimits, open_rows, open_texts
from worker.rows.scanner import Scanner
from worker.shared.pipe import Progress


class Request(RowLimits, kw_only=True):
    """The content of scan.json."""

    method: str | None = None
    """The method that the file is for. None: the rows may have any method's format."""


class Report(msgspec.Struct):
    """The content of report.json."""

    container: str | None = None
    format: str | None = None
    """The rows' format; None if the keys of no row show a format."""
    rows: int = 0
    findings: list[Finding] = []
    finding_counts: dict[str, int] = {}
    warning_codes: list[str] = []
    """Codes of the warnings, including those of which none is listed."""
    excerpts: list[Excerpt] = []
    """The beginnings of some rows that have findings, in the order of the file."""
    error: str | None = None
    """Why the file cannot be read to its end. The other fields then describe the rows before that point."""


def main(run_folder: str) -> int:
    folder = Path(run_folder)
    request = msgspec.json.decode((folder / "scan.json").read_bytes(), type=Request)
    request.apply()
    write_report(folder, msgspec.json.encode(scan(folder / "input", request.read_limits(), request.method)))
    return 0


def scan(source: Path, limits: ReadLimits, method: str | None = None) -> Report:
    report, progress = Report(), Progress()
    scanner = Scanner(None if method is None else METHODS[method])
    exhausted = False
    try:
        report.container, rows = open_rows(source, limits)
        for number, row in rows:
            scanner.add(number, row)
            progress("input", scanner.rows, False)
    except FileError as error:
        report.error = error.message
    except MemoryError:
        exhausted = True
        report.error = (
            f"Reading the file took more memory than allowed, after {scanner.rows:,} rows. Split its longest rows."
        )
    except CpuTimeUsedUp:
        exhausted = True
        report.error = (
            f"Reading the file took more processor time than allowed, after {scanner.rows:,} rows. Use a smaller file."
        )
    report.rows = scanner.rows
    report.format, findings = scanner.best()
    report.findings, report.finding_counts = findings.listed, dict(findings.counts)
    report.warning_codes = sorted(findings.warned)
    if report.container is not None and not exhausted:
        texts = open_texts(source, report.container, limits)
        report.excerpts = read_excerpts(_reporting(texts, progress), report.findings)
    return report


def _reporting(rows: Iterator[tuple[int, bytes]], progress: Progress) -> Iterator[tuple[int, bytes]]:
    """Yield the rows, and report progress, so that the supervisor does not take this process for hung."""
    for number, row in rows:
        progress("excerpts", number, False)
        yield number, row


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
