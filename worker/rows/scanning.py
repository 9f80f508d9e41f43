"""Rows checked by their formats alone: what a file seems to be, and what is wrong with it as such."""

from dataclasses import dataclass, field

from api.formats import FORMATS, Format, Notice, Row, RowError
from worker.rows.findings import Findings, example
from worker.rows.limits import TooSlow, time_limit
from worker.rows.readers import FileError
from worker.rows.seen import Seen

ROW_SECONDS = 2.0


@dataclass
class Candidate:
    """A format that the file may be in, and what is to be said of it if it is."""

    format: Format
    findings: Findings = field(default_factory=Findings)
    errors: int = 0

    def take(self, number: int, row: Row, notices: list[Notice]) -> None:
        try:
            if not self.format.matches(row):
                key = self.format.missing_key(row)
                if key is not None:
                    raise RowError(f"key '{key}' is missing", code="missing_key")
                raise RowError(f"is not in the {self.format.title} format, as the others are", code="mixed_formats")
            with time_limit(ROW_SECONDS):
                notices = [*self.format.parse(row).notices, *notices]
        except RowError as error:
            self.error(number, error.code, error.message)
        except RecursionError:
            self.error(number, "too_deep", "is nested too deeply")
        except TooSlow:
            self.error(number, "too_slow", f"takes longer than {ROW_SECONDS:g} s to check")
        for notice in notices:
            self.findings.warning(number, notice.code, example(number, notice.message))

    def error(self, number: int, code: str, message: str) -> None:
        self.errors += 1
        self.findings.error(number, code, example(number, message))


class Scanner:
    """Takes every row of a file, for each format that the first row's keys fit; the one with the fewest errors is it.

    Without a method the keys alone may leave a doubt: `messages` that end with a question are no training example, but
    a prompt to be answered.
    """

    def __init__(self, max_rows: int) -> None:
        self.rows = 0
        self._max_rows = max_rows
        self._candidates: list[Candidate] = []
        self._seen = Seen()
        self._before: Findings = Findings()
        """What was found while no row had shown a format."""

    def take(self, number: int, row: Row | RowError | None) -> None:
        if row is None:
            for findings in self._all():
                findings.warning(number, "blank_line", f"Line {number} is blank and skipped.")
            return
        if self.rows == self._max_rows:
            raise FileError(f"has more than {self.rows:,} rows", code="too_many_rows")
        self.rows += 1
        if isinstance(row, RowError):
            self._error(number, row.code, row.message)
            return
        notices = self._seen.notices(number, row)
        if not self._candidates:
            fitting = [entry for entry in FORMATS.values() if entry.matches(row)]
            self._candidates = [Candidate(entry) for entry in fitting]
        if not self._candidates:
            self._error(number, "unknown_format", "has no format's keys: GET /v1/fine_tuning/catalog names them")
        for candidate in self._candidates:
            candidate.take(number, row, notices)

    def best(self) -> tuple[str | None, Findings]:
        """(the format's name, all findings). An earlier format wins where two fit alike."""
        if not self._candidates:
            return None, self._before
        best = min(self._candidates, key=lambda candidate: candidate.errors)
        return best.format.name, self._before.followed_by(best.findings)

    def _all(self) -> list[Findings]:
        return [candidate.findings for candidate in self._candidates] or [self._before]

    def _error(self, number: int, code: str, message: str) -> None:
        if not self._candidates:
            self._before.error(number, code, example(number, message))
        for candidate in self._candidates:
            candidate.error(number, code, message)
