"""What prepare found in a file, line by line: the first hundred in full, the rest counted."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

MAX_FINDINGS = 100


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

    def _add(self, line: int | None, severity: Literal["error", "warning"], code: str, message: str) -> None:
        self.counts[code] += 1
        entry = {"line": line, "severity": severity, "code": code, "message": message}
        if len(self.listed) < MAX_FINDINGS:
            self.listed.append(entry)
        elif severity == "error":
            # A file of warnings must not hide what makes it invalid.
            last_warning = next((at for at in range(MAX_FINDINGS - 1, -1, -1) if _is_warning(self.listed[at])), None)
            if last_warning is not None:
                del self.listed[last_warning]
                self.listed.append(entry)


def _is_warning(entry: dict[str, Any]) -> bool:
    return bool(entry["severity"] == "warning")
