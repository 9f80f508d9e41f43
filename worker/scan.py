"""`python -m worker.scan FOLDER`: what an uploaded file of rows holds, before any job names it.

A child behind the wall (docs/architecture.md): reads FOLDER/scan.json and FOLDER/input, writes FOLDER/report.json. It
knows no base model and no method: each row is checked by what its format says of it, and nothing is tokenised. Exit 0:
report.json tells the outcome, good or bad.
"""

import sys
from pathlib import Path
from typing import Any

import msgspec

from worker.rows.limits import CpuTimeUsedUp, limit_process
from worker.rows.readers import FileError, ReadLimits, open_rows
from worker.rows.scanner import Scanner
from worker.shared.pipe import Progress


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """scan.json."""

    memory_bytes: int
    """Private memory of the process."""
    cpu_seconds: int
    line_bytes: int = 1 << 20
    rows: int = 5_000_000
    decompressed_bytes: int = 16 << 30


class Report(msgspec.Struct):
    """report.json."""

    container: str | None = None
    format: str | None = None
    """None where the keys show none."""
    rows: int = 0
    findings: list[dict[str, Any]] = []
    finding_counts: dict[str, int] = {}
    error: str | None = None
    """Why the file cannot be read (to its end); what was found before it stands above."""


def main(folder: Path) -> int:
    request = msgspec.json.decode((folder / "scan.json").read_bytes(), type=Request)
    limit_process(memory_bytes=request.memory_bytes, cpu_seconds=request.cpu_seconds, file_bytes=None)
    report = scan(folder / "input", ReadLimits(request.line_bytes, request.rows, request.decompressed_bytes))
    partial = folder / "report.json.partial"
    partial.write_bytes(msgspec.json.encode(report))
    partial.replace(folder / "report.json")
    return 0


def scan(source: Path, limits: ReadLimits) -> Report:
    report, scanner, progress = Report(), Scanner(limits.rows), Progress()
    try:
        report.container, rows = open_rows(source, limits)
        for number, row in rows:
            scanner.take(number, row)
            progress("input", scanner.rows, False)
    except FileError as error:
        report.error = error.message
    except MemoryError:
        report.error = "The file needs more memory to be read than it may use: its rows are too long."
    except CpuTimeUsedUp:
        report.error = f"Reading the file took more processor time than it may use; {scanner.rows:,} rows were read."
    report.rows = scanner.rows
    report.format, findings = scanner.best()
    report.findings, report.finding_counts = findings.listed, dict(findings.counts)
    return report


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
