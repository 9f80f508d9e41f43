"""Rows out of a user's file, whatever holds them. What it is shows in its first bytes, never in its name."""

from pathlib import Path

from worker.rows.readers.base import FileError, ReadLimits, Rows
from worker.rows.readers.jsonl import read_json_lines


def open_rows(path: Path, limits: ReadLimits) -> tuple[str, Rows]:
    """(container, rows); FileError, at once or on the way."""
    return "jsonl", read_json_lines(path.open("rb"), limits)


__all__ = ["FileError", "ReadLimits", "Rows", "open_rows"]
