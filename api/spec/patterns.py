"""Patterns that users write for names of layers.

A backtracking engine, as Python's `re` is, can take years over one short pattern, and holds the interpreter meanwhile.
RE2 takes time linear in the name, lets other threads run, and limits what a pattern may become. Every reader of a
pattern uses it through this module, so that a pattern which is accepted is also one that can be used.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import re2

MAX_SIZE = 2_000
"""RE2's instructions of one pattern."""
MAX_TOTAL = 32_000
"""And of all patterns of a recipe: a thousand names take them some seconds at worst."""
MEMORY_BYTES = 1 << 20
"""Of one pattern's automaton; where it needs more, RE2 goes on without one, more slowly."""

NO_REPETITION = re.compile(r"(?<!\\[pPx])\{(?!\d{1,4}(,(\d{1,4})?)?\})")
"""A brace that RE2 would take literally. No layer's name has one, and Python reads some of them otherwise."""

Names = tuple[str, ...]


class BadPattern(ValueError):
    """The pattern cannot be used; the message says why."""


def require(patterns: Iterable[str]) -> None:
    """Raise BadPattern for patterns that are none, or too large to be matched quickly."""
    total = 0
    for pattern in patterns:
        total += _compiled(pattern, ends=True).programsize
        if total > MAX_TOTAL:
            raise BadPattern("the patterns are too large together: write fewer or shorter ones")


@lru_cache(maxsize=64)
def whole(pattern: str, names: Names) -> frozenset[str]:
    """Those names that the pattern matches as a whole. Raises BadPattern."""
    compiled = _compiled(pattern, ends=False)
    return frozenset(name for name in names if compiled.fullmatch(name.encode()))


@lru_cache(maxsize=64)
def first_of_end(patterns: Names, names: Names) -> dict[str, str]:
    """The first pattern that matches a name or its end after a dot, by name, as peft has it. Raises BadPattern."""
    require(patterns)
    found: dict[str, str] = {}
    for pattern in patterns:
        compiled = _compiled(pattern, ends=True)
        found |= {name: pattern for name in names if name not in found and compiled.fullmatch(name.encode())}
    return found


@lru_cache(maxsize=64)
def unused(patterns: Names, names: Names) -> str | None:
    """A pattern that matches the end of no name; None if there is none. Raises BadPattern."""
    for pattern in patterns:
        compiled = _compiled(pattern, ends=True)
        if not any(compiled.fullmatch(name.encode()) for name in names):
            return pattern
    return None


@lru_cache(maxsize=1024)
def _compiled(pattern: str, *, ends: bool) -> Any:
    if NO_REPETITION.search(pattern):
        raise BadPattern(f"{_shown(pattern)}: a repetition is {{n}}, {{n,}} or {{n,m}}, of at most 1000")
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = MEMORY_BYTES
    options.encoding = re2.Options.Encoding.LATIN1  # names are compared as bytes
    text = pattern.encode(errors="surrogatepass")
    try:
        compiled = re2.compile(text, options)
        if compiled.programsize > MAX_SIZE:
            raise BadPattern(f"the pattern {_shown(pattern)} is too large: write it with fewer or smaller repetitions")
        # Only what is a pattern by itself is put into another: `a)(b` is none.
        return re2.compile(b"(?:.*\\.)?(?:" + text + b")", options) if ends else compiled
    except re2.error as error:
        reason = error.args[0] if error.args else b""
        reason = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise BadPattern(
            f"{_shown(pattern)} is no regular expression of RE2's syntax, which has no look-around and no "
            f"back-references: {reason}"
        ) from None


def _shown(pattern: str) -> str:
    return repr(pattern[:100])
