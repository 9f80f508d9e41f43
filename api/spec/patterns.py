"""Users' regular expressions for names of layers, matched by RE2.

A backtracking engine such as Python's `re` can take years for one short pattern and blocks the interpreter meanwhile.
RE2 takes time linear in the name, lets other threads run, and limits the size of compiled patterns. All code uses
patterns through this module, so that every accepted pattern can also be applied.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import re2

MAX_SIZE = 2_000
"""Maximum number of RE2 instructions of one pattern."""
MAX_TOTAL = 32_000
"""Maximum number of RE2 instructions of all patterns of a recipe. Matching them with a thousand names then takes
seconds at worst."""
MEMORY_BYTES = 1 << 20
"""Maximum memory of one pattern's automaton, in bytes. If the automaton needs more, RE2 continues without one, more
slowly."""

NO_REPETITION = re.compile(r"(?<!\\[pPx])\{(?!\d{1,4}(,(\d{1,4})?)?\})")
"""Finds braces that RE2 matches literally, such as {,3}. They are refused as mistakes: no layer's name has a brace, and
Python reads some of them as repetitions."""

Names = tuple[str, ...]


class BadPattern(ValueError):
    """The pattern is invalid or too large. The message says which, and why."""


def require(patterns: Iterable[str]) -> None:
    """Raise BadPattern for invalid patterns, and for patterns too large to be matched quickly."""
    total = 0
    for pattern in patterns:
        total += _compiled(pattern, ends=True).programsize
        if total > MAX_TOTAL:
            raise BadPattern("the patterns together are too large: use fewer or shorter ones")


@lru_cache(maxsize=64)
def full_matches(pattern: str, names: Names) -> frozenset[str]:
    """Return the names that the pattern matches in full. Raises BadPattern if the pattern is invalid or too large."""
    compiled = _compiled(pattern, ends=False)
    return frozenset(name for name in names if compiled.fullmatch(name.encode()))


@lru_cache(maxsize=64)
def first_match(patterns: Names, names: Names) -> dict[str, str]:
    """Return {name: pattern} with the first pattern that matches the whole name or its end after a dot, as peft
    chooses. Names that no pattern matches are left out. Raises BadPattern if a pattern is invalid or too large."""
    require(patterns)
    matched: dict[str, str] = {}
    for pattern in patterns:
        compiled = _compiled(pattern, ends=True)
        matched |= {name: pattern for name in names if name not in matched and compiled.fullmatch(name.encode())}
    return matched


@lru_cache(maxsize=64)
def first_unused(patterns: Names, names: Names) -> str | None:
    """Return the first pattern that matches no name, neither whole nor its end after a dot; None if every pattern
    matches a name. Raises BadPattern if a pattern is invalid or too large."""
    for pattern in patterns:
        compiled = _compiled(pattern, ends=True)
        if not any(compiled.fullmatch(name.encode()) for name in names):
            return pattern
    return None


@lru_cache(maxsize=1024)
def _compiled(pattern: str, *, ends: bool) -> Any:
    if NO_REPETITION.search(pattern):
        raise BadPattern(
            f"{_quoted(pattern)}: write repetitions as {{n}}, {{n,}} or {{n,m}}, where n and m are at most 1000"
        )
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = MEMORY_BYTES
    options.encoding = re2.Options.Encoding.LATIN1  # names are compared as bytes
    text = pattern.encode(errors="surrogatepass")
    try:
        compiled = re2.compile(text, options)
        if compiled.programsize > MAX_SIZE:
            raise BadPattern(f"the pattern {_quoted(pattern)} is too large: use fewer or smaller repetitions")
        # The pattern is compiled alone first: an invalid one such as `a)(b` would be valid inside the group.
        return re2.compile(b"(?:.*\\.)?(?:" + text + b")", options) if ends else compiled
    except re2.error as error:
        reason = error.args[0] if error.args else b""
        reason = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise BadPattern(
            f"{_quoted(pattern)} is not a regular expression in RE2's syntax, which has no look-around and no "
            f"back-references: {reason}"
        ) from None


def _quoted(pattern: str) -> str:
    return repr(pattern[:100])
