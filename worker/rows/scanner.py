"""Rows checked by their formats alone: what a file seems to be, and what is wrong with it as such."""

from dataclasses import dataclass, field

from api.spec.formats import ClassificationExample, Example, Format, Row, RowError, RowWarning, Unpaired, fitting
from worker.rows.check_row import ParsedRow, check_row
from worker.rows.duplicates import DuplicateDetector
from worker.rows.errors import keys_of
from worker.rows.findings import Findings, example
from worker.rows.label_balance import check_labels
from worker.rows.labels import Classes, Desirable, Labels


@dataclass
class Candidate:
    """A format that the file may be in, and what is to be said of it if it is."""

    format: Format
    findings: Findings = field(default_factory=Findings)
    errors: int = 0
    labels: Labels | None = None

    def __post_init__(self) -> None:
        match self.format.label_kind:
            case "class":
                self.labels = Classes()
            case "desirable":
                self.labels = Desirable()

    def take(self, number: int, row: Row, notices: list[RowWarning]) -> None:
        read = check_row(number, row, self._read, self.findings, lambda: notices)
        self.errors += read is None

    def error(self, number: int, code: str, message: str) -> None:
        self.errors += 1
        self.findings.error(number, code, example(number, message))

    def _read(self, row: Row) -> ParsedRow[Example]:
        found = self.format.read(row)
        label = found.label if isinstance(found, ClassificationExample) else None
        label = float(found.desirable) if isinstance(found, Unpaired) else label
        return ParsedRow(found, found.notices, [label], self.labels)


class Scanner:
    """Takes every row of a file, for each format that the first row's keys fit; the one with the fewest errors is it.

    Without a method the keys alone may leave a doubt: `messages` that end with a question are no training example, but
    a prompt to be answered.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._candidates: list[Candidate] = []
        self._seen = DuplicateDetector()
        self._before: Findings = Findings()
        """What was found while no row had shown a format."""

    def take(self, number: int, row: Row | RowError | None) -> None:
        if row is None:
            for findings in self._all():
                findings.blank_line(number)
            return
        self.rows += 1
        if isinstance(row, RowError):
            self._error(number, row.code, row.message)
            return
        notices = self._seen.notices(number, row)
        if not self._candidates:
            self._candidates = [Candidate(entry) for entry in fitting(row)]
        if not self._candidates:
            words = f"has no format's keys: GET /v1/fine_tuning/catalog names them. {keys_of(row)}"
            self._error(number, "unknown_format", words)
        for candidate in self._candidates:
            candidate.take(number, row, notices)

    def best(self) -> tuple[str | None, Findings]:
        """(the format's name, all findings). An earlier format wins where two fit alike."""
        if not self._candidates:
            return None, self._before
        best = min(self._candidates, key=lambda candidate: candidate.errors)
        whole = Findings()
        check_labels(best.labels, whole, "unknown")
        return best.format.name, self._before.followed_by(best.findings).followed_by(whole)

    def _all(self) -> list[Findings]:
        return [candidate.findings for candidate in self._candidates] or [self._before]

    def _error(self, number: int, code: str, message: str) -> None:
        if not self._candidates:
            self._before.error(number, code, example(number, message))
        for candidate in self._candidates:
            candidate.error(number, code, message)
