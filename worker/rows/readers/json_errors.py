"""Explanations of invalid JSON that help the user fix it."""

import re

from api.spec.formats.base import RowError, truncate

LONE_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]")
NOT_A_NUMBER = re.compile(rb"[:\[,]\s*-?(NaN|Infinity)")
PYTHON = re.compile(rb"\s*\{\s*u?'")
COMMENT = re.compile(rb"\s*(//|/\*|#)")
POSITION = re.compile(r" \(byte (\d+)\)$")
"""Finds the position of the error in msgspec's message."""


def explain_json_error(line: bytes, problem: str) -> RowError:
    """Return the error of a line that is not JSON. `problem`: msgspec's message."""
    if LONE_SURROGATE.search(line):
        return RowError(
            "contains half of a surrogate pair (\\ud800 to \\udfff), which is not a character", code="surrogate"
        )
    if "out of range" in problem:
        return RowError("contains a number that is too large", code="number_out_of_range")
    if b"\0" in line:
        return RowError("contains the character NUL, a byte of zeros", code="invalid_json")
    return RowError(_reason(line, problem), code="invalid_json")


def _reason(line: bytes, problem: str) -> str:
    if NOT_A_NUMBER.search(line):
        return "contains NaN or Infinity, which JSON does not have"
    if not line.strip():
        return "is empty: remove a comma before or after it"
    position = POSITION.search(problem)
    at = int(position.group(1)) if position else None
    if PYTHON.match(line):
        return "is in Python's notation, not JSON: use double quotes, as json.dumps does"
    return f"is not valid JSON: {_mistake(line, problem, at)}"


def _mistake(line: bytes, problem: str, at: int | None) -> str:
    rest = b"" if at is None else line[at:]
    mistakes = (
        (COMMENT.match(line), "it begins with a comment, which JSON does not have"),
        ("truncated" in problem, "the text ends before the object is closed"),
        ("trailing comma" in problem, "it has a comma before a closing bracket"),
        ("keys must be strings" in problem, 'its keys and texts must be in double quotes (")'),
        ("trailing characters" in problem, _what_follows(line[(at or 1) - 1 :])),
        (at == 0, f"it begins with {truncate(line.strip().decode(errors='replace'), 20)}"),
        (rest[:1] and rest[0] < 32, "a text contains a tab or another control character: write \\t, \\n"),
    )
    return next((message for present, message in mistakes if present), problem.removeprefix("JSON is malformed: "))


def _what_follows(rest: bytes) -> str:
    """Return the mistake that the text after the object shows."""
    rest = rest.strip()
    if rest == b",":
        return "a comma follows the object: remove the comma"
    if rest.lstrip(b", ").startswith((b"{", b"[")):
        return "the line has several objects: write each on a line of its own"
    return f"{truncate(rest.decode(errors='replace'), 20)} follows the object"
