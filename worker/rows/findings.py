"""What prepare found in a file, line by line: the first hundred in full, the rest counted."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

MAX_FINDINGS = 100


def example(number: int, problem: str) -> str:
    """Reads as a sentence, and where OpenAI's own message is known, as that one."""
    names_a_part = problem.startswith(("message", "'", "key", "tools", "functions", "the ", "both "))
    return f"Example {number}{',' if names_a_part else ''} {problem}"


@dataclass
class Findings:
    listed: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    first_error: str | None = None

    def error(self, line: int | None, code: str, message: str) -> None:
        self.first_error = self.first_error or message
        self._add(line, "error", code, message)

    def warning(self, line: int | None, code: str, message: str) -> None:
        self._add(line, "warning", code, message)

    def blank_line(self, line: int) -> None:
        self.warning(line, "blank_line", f"Line {line} is blank and skipped.")

    def followed_by(self, later: "Findings") -> "Findings":
        """These, and those of the rest of the file."""
        whole = Findings(list(self.listed), self.counts + later.counts, self.first_error or later.first_error)
        for entry in later.listed:
            whole._list(entry)
        return whole

    def _add(self, line: int | None, severity: Literal["error", "warning"], code: str, message: str) -> None:
        self.counts[code] += 1
        self._list({"line": line, "severity": severity, "code": code, "message": message})

    def _list(self, entry: dict[str, Any]) -> None:
        if len(self.listed) < MAX_FINDINGS:
            self.listed.append(entry)
        elif (last := self._dispensable(entry)) is not None:
            del self.listed[last]
            self.listed.append(entry)

    def _dispensable(self, entry: dict[str, Any]) -> int | None:
        """The last warning of a kind that is listed more than once, which gives its place to an error or to a warning
        of a new kind. To an error any other warning does: a file of warnings does not hide what makes it invalid."""
        listed = Counter(each["code"] for each in self.listed)
        if _is_warning(entry) and entry["code"] in listed:
            return None
        warnings = [at for at in range(MAX_FINDINGS - 1, -1, -1) if _is_warning(self.listed[at])]
        repeated = (at for at in warnings if listed[self.listed[at]["code"]] > 1)
        return next(repeated, None if _is_warning(entry) else next(iter(warnings), None))


def _is_warning(entry: dict[str, Any]) -> bool:
    return bool(entry["severity"] == "warning")
