"""`attune files check`: the server's scan of an uploaded file, run on this machine without any server.

The scan is a program of its own (worker.scan), which needs neither torch nor a database.
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from api.cli.client import Document
from api.cli.connect import Json
from api.cli.console import plural, print_json, print_line
from api.cli.errors import CommandError, ExitCode
from api.cli.findings import count_errors, print_findings, summarize_scan

LIMITS = {"memory_bytes": 4 << 30, "cpu_seconds": 600}
"""The defaults of ATTUNE_PREPARE_MEMORY_BYTES and ATTUNE_SCAN_CPU_SECONDS."""


def check(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A file of rows: JSON Lines, JSON, CSV or Parquet.")],
    *,
    method: Annotated[
        str | None,
        typer.Option(help="Training method, such as supervised. Default: every method that accepts the rows' format."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a file without a server, and print each error and warning with its line.

    The server reports the same findings after an upload or, with --method, for a job. The exit code is 2 if there is an
    error.
    """
    # Imported only for this command: no other client command needs the methods, which are slow to build.
    from api.spec.catalog import METHODS  # noqa: PLC0415

    if method is not None and method not in METHODS:
        raise CommandError(ExitCode.REFUSED, f"--method: {method} is none of {', '.join(METHODS)}.")
    report = scan(path, method)
    errors = count_errors(report["findings"])
    if as_json:
        print_json(report)
    else:
        print_findings(report["findings"], report["finding_counts"])
        fitting = [name for name, entry in METHODS.items() if report["format"] in entry.formats]
        methods = method or ", ".join(fitting) or "no method"
        print_line(f"{path}: {summarize_scan(report)}, checked for {methods}; {_verdict(report, errors)}")
    if errors or report["error"]:
        raise typer.Exit(ExitCode.REFUSED)


def scan(path: Path, method: str | None = None) -> Document:
    """Return the report of the scan (worker.scan.Report). Raise CommandError if the file cannot be opened."""
    if not path.is_file():
        raise CommandError(ExitCode.REFUSED, f"{path} is not a file.")
    with TemporaryDirectory(prefix="attune-check-") as name:
        folder = Path(name)
        (folder / "input").symlink_to(path.resolve())
        (folder / "scan.json").write_text(json.dumps({**LIMITS, "method": method}))
        done = subprocess.run(
            [sys.executable, "-m", "worker.scan", name], capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise CommandError(ExitCode.REFUSED, f"{path} could not be scanned: {lines[-1]}")
        report: Document = json.loads((folder / "report.json").read_bytes())
    return report


def _verdict(report: Document, errors: int) -> str:
    if report["error"]:
        return "unreadable"
    warnings = sum(finding["severity"] == "warning" for finding in report["findings"])
    return f"{plural(errors, 'error')}, {plural(warnings, 'warning')} listed" if errors or warnings else "no errors"
