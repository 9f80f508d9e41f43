"""The check of a file's rows by their formats alone, without a base model, and with or without a method."""

from dataclasses import dataclass, field

from api.spec.formats import (
    FORMATS,
    ClassificationExample,
    Example,
    Format,
    Row,
    RowError,
    RowWarning,
    Unpaired,
    closest_format,
    detect,
    possible_formats,
)
from api.spec.formats.base import keys_of
from api.spec.formats.labelled import warn_of_ignored_labels
from api.spec.methods import MethodBase
from worker.rows.check_row import ParsedRow, check_row
from worker.rows.duplicates import DuplicateDetector
from worker.rows.findings import Findings, example
from worker.rows.label_balance import check_labels
from worker.rows.labels import ClassColumn, DesirableColumn, LabelColumn
from worker.rows.plain_formats import PlainFormat
from worker.rows.readers import PlainChat


@dataclass
class Candidate:
    """A format that the file may have, and the findings of checks in that format."""

    format: Format
    findings: Findings = field(default_factory=Findings)
    errors: int = 0
    labels: LabelColumn | None = None

    def __post_init__(self) -> None:
        self._plain = PlainFormat(self.format)
        match self.format.label_kind:
            case "class":
                self.labels = ClassColumn()
            case "desirable":
                self.labels = DesirableColumn()

    def add(self, number: int, row: Row | PlainChat, warnings: list[RowWarning]) -> None:
        """Check a row. `warnings`: further warnings, which do not depend on the format."""
        if not isinstance(row, PlainChat):
            value = check_row(number, lambda: self._parse(row), self.findings, lambda: warnings)
            self.errors += value is None
            return
        alike = self._plain.read(row)
        if isinstance(alike, RowError):
            self.error(number, alike.code, alike.message)
        else:
            warnings = [*alike.warnings, *warnings]
        for warning in warnings:
            self.findings.row_warning(number, warning.code, warning.message)

    def error(self, number: int, code: str, message: str) -> None:
        self.errors += 1
        self.findings.row_error(number, code, message)

    def _parse(self, row: Row) -> ParsedRow[Example]:
        parsed = self.format.read(row)
        label = parsed.label if isinstance(parsed, ClassificationExample) else None
        label = float(parsed.desirable) if isinstance(parsed, Unpaired) else label
        return ParsedRow(parsed, parsed.warnings, [label], self.labels)


class Scanner:
    """Checks every row of a file in each format that the first row may have. The file's format is the one with the
    fewest errors.

    Without a method, the keys of a row may fit two formats. For example, `messages` that end with a question are a
    prompt, other `messages` are a training example. With a method, rows are checked only in formats that the method
    accepts, so a supervised job reports such a prompt as an error.
    """

    def __init__(self, method: type[MethodBase] | None = None) -> None:
        """With `method`, a row has to be in one of the formats that the method accepts, as in a job."""
        self.rows = 0
        self._method = method
        self._candidates: list[Candidate] = []
        self._duplicates = DuplicateDetector()
        self._before: Findings = Findings()
        """Findings before the first row that shows a format."""

    def add(self, number: int, row: Row | PlainChat | RowError | None) -> None:
        if row is None:
            for findings in self._all():
                findings.blank_line(number)
            return
        self.rows += 1
        if isinstance(row, RowError):
            self._error(number, row.code, row.message)
            return
        warnings = self._duplicates.warnings(number, row)
        if not self._candidates:
            self._find_candidates(number, row.row() if isinstance(row, PlainChat) else row)
        for candidate in self._candidates:
            candidate.add(number, row, warnings)

    def best(self) -> tuple[str | None, Findings]:
        """Return (the format's name, all findings). The first format wins a tie."""
        if not self._candidates:
            return None, self._before
        best = min(self._candidates, key=lambda candidate: candidate.errors)
        whole = Findings()
        check_labels(best.labels, whole, "unknown")
        return best.format.name, self._before.followed_by(best.findings).followed_by(whole)

    def _find_candidates(self, number: int, row: Row) -> None:
        if self._method is not None:
            self._find_accepted(number, row, self._method)
            return
        self._candidates = [Candidate(entry) for entry in possible_formats(row)]
        if not self._candidates:
            problem = f"has keys that match no format; GET /v1/fine_tuning/catalog lists the formats. {keys_of(row)}"
            self._error(number, "unknown_format", problem)

    def _find_accepted(self, number: int, row: Row, method: type[MethodBase]) -> None:
        name = detect(row, method.formats)
        if name is not None and name in method.formats:
            self._candidates = [Candidate(FORMATS[name])]
            if warning := warn_of_ignored_labels(name, row):
                self._before.warning(number, warning.code, warning.message)
        elif closest := closest_format(row, method.formats):
            self._error(number, "missing_key", f"key '{closest[1]}' is missing")
        else:
            found = "has keys that match no format" if name is None else f"is in the format {name}"
            accepted = f"format{'s' * (len(method.formats) > 1)} {', '.join(sorted(method.formats))}"
            self._error(number, "wrong_format", f"{found}, but the method accepts only the {accepted}. {keys_of(row)}")

    def _all(self) -> list[Findings]:
        return [candidate.findings for candidate in self._candidates] or [self._before]

    def _error(self, number: int, code: str, message: str) -> None:
        if not self._candidates:
            self._before.error(number, code, example(number, message))
        for candidate in self._candidates:
            candidate.error(number, code, message)
