"""The report of a file's scan, with findings of the same kind grouped, so that ten thousand equal problems are listed
once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from api.context import Caller, Context
from api.errors import InvalidRequest
from api.records.files import File
from api.services import files
from api.spec.fields import JsonObject

EXAMPLES = 5

Severity = Literal["error", "warning"]


class NotScanned(InvalidRequest):
    param = "file_id"
    code = "file_not_scanned"


@dataclass(frozen=True)
class Example:
    line: int | None
    message: str
    text: str | None
    cut: bool


@dataclass(frozen=True)
class Group:
    code: str
    severity: Severity
    count: int
    lines: Sequence[int]
    examples: Sequence[Example]


@dataclass(frozen=True)
class Report:
    file: File
    status: str
    scan: JsonObject
    groups: Sequence[Group]


def report(context: Context, caller: Caller, file_id: str) -> Report:
    """Return the file's report. Raise NoSuchFile, and NotScanned for files that are not scanned, such as those that
    jobs create."""
    file = files.get(context, caller, file_id)
    if file.scan_status is None:
        raise NotScanned(f"{file_id} has purpose '{file.purpose}': only files with purpose 'fine-tune' are checked")
    return Report(file, file.scan_status, file.scan_report, group_findings(file.scan_report))


def group_findings(scan: JsonObject) -> list[Group]:
    """Return the scan's findings grouped by code: errors before warnings, and more frequent ones first.

    Reports of scans by earlier releases have no excerpts: the examples then have no text.
    """
    warned = set(scan.get("warning_codes", ()))
    excerpts = {excerpt["line"]: excerpt for excerpt in scan.get("excerpts", [])}
    counts = scan.get("finding_counts", {})
    listed: dict[str, list[JsonObject]] = {code: [] for code in counts}
    for finding in scan.get("findings", []):
        listed.setdefault(finding["code"], []).append(finding)
    groups = [
        _group(code, found, counts.get(code, len(found)), excerpts, unlisted="warning" if code in warned else "error")
        for code, found in listed.items()
    ]
    return sorted(groups, key=lambda group: (group.severity, -group.count, group.code))


def _group(
    code: str, found: Sequence[JsonObject], count: int, excerpts: dict[int, JsonObject], *, unlisted: Severity
) -> Group:
    """Return the group of a code. `unlisted`: its severity if none of its findings is among the hundred listed ones."""
    examples = []
    for finding in found[:EXAMPLES]:
        excerpt: dict[str, Any] = excerpts.get(finding["line"], {})
        examples.append(Example(finding["line"], finding["message"], excerpt.get("text"), excerpt.get("cut", False)))
    lines = sorted({finding["line"] for finding in found if finding["line"] is not None})
    return Group(code, found[0]["severity"] if found else unlisted, count, lines, examples)
