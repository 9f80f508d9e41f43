"""What is wrong with a line that is no JSON, in words that say what to do."""

import re

from api.spec.formats.base import RowError, truncate

LONE_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]")
NOT_A_NUMBER = re.compile(rb"[:\[,]\s*-?(NaN|Infinity)")
PYTHON = re.compile(rb"\s*\{\s*u?'")
COMMENT = re.compile(rb"\s*(//|/\*|#)")
PLACE = re.compile(r" \(byte (\d+)\)$")
"""Where msgspec's messages say that reading ended."""


def explained(line: bytes, problem: str) -> RowError:
    """Why a line is no JSON. `problem`: msgspec's words."""
    if LONE_SURROGATE.search(line):
        return RowError(
            "contains half of a surrogate pair (\\ud800 to \\udfff), which is no character", code="surrogate"
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
        return "is empty: there is a comma too many"
    place = PLACE.search(problem)
    at = int(place.group(1)) if place else None
    if PYTHON.match(line):
        return "is not valid JSON but Python's notation: texts stand in double quotes, as json.dumps writes them"
    return f"is not valid JSON: {_slip(line, problem, at)}"


def _slip(line: bytes, problem: str, at: int | None) -> str:
    rest = b"" if at is None else line[at:]
    slips = (
        (COMMENT.match(line), "it begins with a comment, which JSON does not have"),
        ("truncated" in problem, "it ends before its object does"),
        ("trailing comma" in problem, "a comma stands before a closing bracket"),
        ("keys must be strings" in problem, 'its keys and texts stand in double quotes (")'),
        ("trailing characters" in problem, _what_follows(line[(at or 1) - 1 :])),
        (at == 0, f"it begins with {truncate(line.strip().decode(errors='replace'), 20)}"),
        (rest[:1] and rest[0] < 32, "a tab or another control character stands in a text, where JSON has \\t, \\n"),
    )
    return next((words for found, words in slips if found), problem.removeprefix("JSON is malformed: "))


def _what_follows(rest: bytes) -> str:
    """What stands behind the object."""
    rest = rest.strip()
    if rest == b",":
        return "a comma stands behind its object, where a line ends without one"
    if rest.lstrip(b", ").startswith((b"{", b"[")):
        return "it holds several objects: write each on a line of its own"
    return f"{truncate(rest.decode(errors='replace'), 20)} stands behind its object"
