"""The findings in a file of rows, as `files check`, `files get` and `preview` print them."""

from collections.abc import Mapping, Sequence

from api.cli.client import Document
from api.cli.console import print_note
from api.cli.listing import print_documents


def summarize_scan(scan: Mapping[str, object]) -> str:
    """Return the number of rows and their format, or why the file cannot be read."""
    rows = f"{scan['rows'] or 0:,} rows, format {scan['format'] or 'unknown'}"
    return f"{scan['error']} ({rows} before that)" if scan.get("error") else rows


def print_findings(findings: Sequence[Document], counts: Mapping[str, int]) -> None:
    """Print each listed finding with its line, and how many are not listed."""
    if findings:
        print_documents(findings, {"LINE": "line", "SEVERITY": "severity", "CODE": "code", "MESSAGE": "message"})
    if left := sum(counts.values()) - len(findings):
        every = ", ".join(f"{code} {count:,}" for code, count in counts.items())
        print_note(f"{left:,} more are not listed. All by code: {every}")


def count_errors(findings: Sequence[Document]) -> int:
    return sum(finding["severity"] == "error" for finding in findings)
