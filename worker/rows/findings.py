"""The errors and warnings in a file: a hundred are listed, all are counted."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, TypedDict

Severity = Literal["error", "warning"]
MAX_FINDINGS = 100
"""Maximum number of findings that are listed."""

MAX_SUMMARY_LINES = 5
"""Maximum number of lines with other errors that a summary names after the first error."""


class Finding(TypedDict):
    """An error or a warning about a line, or about the whole file."""

    line: int | None
    """Number of the line or row; None if the finding is about the whole file."""
    severity: Severity
    code: str
    message: str


def example(number: int, problem: str) -> str:
    """Return a sentence about the problem of row `number`, in OpenAI's wording if that is known."""
    names_field = problem.startswith(("message", "'", "key", "tools", "functions", "the ", "both "))
    return f"Example {number}{',' if names_field else ''} {problem}"


@dataclass
class Findings:
    listed: list[Finding] = field(default_factory=list)
    """The listed findings, in the order of the file."""
    counts: Counter[str] = field(default_factory=Counter)
    """Code → number of findings, listed or not."""
    first_error: str | None = None
    """The message of the first error."""
    errors: int = 0
    """Number of errors, listed or not."""
    warned: set[str] = field(default_factory=set)
    """Codes of the warnings, listed or not."""

    def __post_init__(self) -> None:
        self._listed_codes = Counter(entry["code"] for entry in self.listed)
        self._listed_warnings = sum(map(_is_warning, self.listed))

    def error(self, line: int | None, code: str, message: str) -> None:
        self.first_error = self.first_error or message
        self.errors += 1
        self._add(line, "error", code, message)

    def warning(self, line: int | None, code: str, message: str) -> None:
        self.warned.add(code)
        self._add(line, "warning", code, message)

    def row_error(self, number: int, code: str, problem: str) -> None:
        """Add an error about a row. To save time, its message is built only for the first error and for errors that may
        be listed."""
        if self.first_error is None or self._may_list("error", code):
            self.error(number, code, example(number, problem))
        else:
            self.errors += 1
            self.counts[code] += 1

    def row_warning(self, number: int, code: str, problem: str) -> None:
        """Add a warning about a row."""
        if self._may_list("warning", code):
            self.warning(number, code, example(number, problem))
        else:
            self.warned.add(code)
            self.counts[code] += 1

    def blank_line(self, line: int) -> None:
        self.warning(line, "blank_line", f"Line {line} is blank and skipped.")

    def error_summary(self, unit: str) -> str | None:
        """Return a sentence with the first error, the number of the other errors and the places of some of them; None
        without errors.

        `unit`: "line" or "row", the noun for the numbers of the findings.
        """
        if self.first_error is None or self.errors == 1:
            return self.first_error
        lines = [str(entry["line"]) for entry in self.listed if not _is_warning(entry) and entry["line"] is not None]
        more, others = self.errors - 1, lines[1 : 1 + MAX_SUMMARY_LINES]
        where = f": {unit}{'s' if len(others) > 1 else ''} {', '.join(others)}" if others else ""
        return f"{self.first_error.rstrip('.')} … and {more:,} more{where}{', …' if more > len(others) else ''}"

    def followed_by(self, later: "Findings") -> "Findings":
        """Return these findings together with `later`, the findings in the rest of the file."""
        first = self.first_error or later.first_error
        counts, errors, warned = self.counts + later.counts, self.errors + later.errors, self.warned | later.warned
        whole = Findings(list(self.listed), counts, first, errors, warned)
        for entry in later.listed:
            whole._list(entry)
        return whole

    def _add(self, line: int | None, severity: Severity, code: str, message: str) -> None:
        self.counts[code] += 1
        self._list({"line": line, "severity": severity, "code": code, "message": message})

    def _list(self, entry: Finding) -> None:
        if not self._may_list(entry["severity"], entry["code"]):
            return
        if len(self.listed) >= MAX_FINDINGS:
            last = self._dispensable(entry)
            if last is None:
                return
            replaced = self.listed.pop(last)
            self._listed_codes -= Counter([replaced["code"]])
            self._listed_warnings -= 1
        self.listed.append(entry)
        self._listed_codes[entry["code"]] += 1
        self._listed_warnings += _is_warning(entry)

    def _may_list(self, severity: Severity, code: str) -> bool:
        """Return whether a finding of this severity and code may be listed. This check is cheap, because a file may
        have millions of findings."""
        if len(self.listed) < MAX_FINDINGS:
            return True
        return self._listed_warnings > 0 and not (severity == "warning" and code in self._listed_codes)

    def _dispensable(self, entry: Finding) -> int | None:
        """Return the index of the listed warning that the entry replaces, or None.

        An error or a warning with a new code replaces the last warning whose code is listed more than once. An error
        replaces any other warning, too: a file full of warnings must not hide its errors.
        """
        warnings = [at for at in range(MAX_FINDINGS - 1, -1, -1) if _is_warning(self.listed[at])]
        repeated = (at for at in warnings if self._listed_codes[self.listed[at]["code"]] > 1)
        return next(repeated, None if _is_warning(entry) else next(iter(warnings), None))


def _is_warning(entry: Finding) -> bool:
    return entry["severity"] == "warning"
