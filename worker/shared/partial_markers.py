"""Markers, such as stop strings and tags, of which a growing text has only the beginning so far."""

from collections.abc import Sequence


def partial_marker_chars(text: str, markers: Sequence[str]) -> int:
    """Return the number of characters at the end of the text that may begin one of the markers."""
    longest = max(map(len, markers), default=1) - 1
    sizes = range(min(longest, len(text)), 0, -1)
    return next((size for size in sizes if any(marker.startswith(text[-size:]) for marker in markers)), 0)


def undecided_chars(text: str, marker: str) -> int:
    """Return the number of characters at the end of the text that may begin the marker, with the white space before
    them."""
    before = text[: len(text) - partial_marker_chars(text, [marker])]
    return len(text) - len(before.rstrip())
