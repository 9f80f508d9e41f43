"""Everything that reaches the terminal passes here: results on stdout, all else on stderr.

Names and messages come from other people's files and requests, so their control characters never reach the terminal.
"""

import json
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")


def clean(value: object) -> str:
    """One line without control characters. Those that reverse the reading direction count as such (category Cf)."""
    text = _ESCAPE_SEQUENCE.sub("", str(value))
    return "".join(" " if unicodedata.category(char)[0] == "C" or char in "\u2028\u2029" else char for char in text)


def print_line(text: object) -> None:
    out.print(Text(clean(text)))


def note(text: object) -> None:
    """For the person at the terminal, not part of the result."""
    err.print(Text(clean(text), style="dim"))


def print_error(text: object) -> None:
    err.print(Text.assemble(("error: ", "bold red"), clean(text)))


def print_json(document: object) -> None:
    """One document on one line; ASCII, so that no control character of a name survives unescaped."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def say_result(document: object, text: object, *, as_json: bool) -> None:
    """The result of a command: for programs the whole document, for people a sentence."""
    if as_json:
        print_json(document)
    else:
        print_line(text)


def say_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Aligned columns; without a terminal, tab-separated lines under the same head, for `cut` and `awk`."""
    if not out.is_terminal:
        for row in (columns, *rows):
            say_line("\t".join(clean(cell) for cell in row))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    out.print(table)


def print_fields(fields: Mapping[str, object]) -> None:
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        print_line(f"{name:<{width}}  {value}")


def say_piece(text: str) -> None:
    """Part of a longer text, as it comes. It may have lines; nothing else in it steers the terminal."""
    lines = ("\t".join(map(clean, line.split("\t"))) for line in text.split("\n"))
    sys.stdout.write("\n".join(lines))
    sys.stdout.flush()


def say_line(line: str) -> None:
    sys.stdout.write(line + "\n")


def moment(unix_s: Any) -> str:
    """A server's Unix time as this machine's local time."""
    if not isinstance(unix_s, (int, float)):
        return "-"
    return datetime.fromtimestamp(unix_s).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def size(count: Any) -> str:
    if not isinstance(count, (int, float)):
        return "-"
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def transfer_progress() -> Progress:
    """For bytes that move; shown only where someone looks at it."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    )
