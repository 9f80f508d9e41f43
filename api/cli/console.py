"""Output to the terminal: results on stdout, everything else on stderr.

Names and messages come from other people's files and requests, so their control characters never reach the terminal.
"""

import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import accumulate

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704 (called while a BrokenPipeError is handled: raising it again ends the command)


out = _Console(highlight=False, soft_wrap=True)
err = _Console(stderr=True, highlight=False, soft_wrap=True)

_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")


def is_watched() -> bool:
    """Return whether a person sees both the results and the progress of the command."""
    return out.is_terminal and err.is_terminal


def clean(value: object) -> str:
    """Return the text as one line without control characters.

    Characters that reverse the reading direction are control characters too (category Cf).
    """
    text = _ESCAPE_SEQUENCE.sub("", str(value))
    return "".join(" " if unicodedata.category(char)[0] == "C" or char in "\u2028\u2029" else char for char in text)


def print_line(text: object, *, style: str = "") -> None:
    out.print(Text(clean(text), style=style))


def print_note(text: object) -> None:
    """Print a line on stderr that informs the user and is not part of the result."""
    err.print(Text(clean(text), style="dim"))


def print_error(text: object) -> None:
    err.print(Text.assemble(("error: ", "bold red"), clean(text)))


def print_json(document: object) -> None:
    """Print a document as one line of JSON in ASCII, in which every control character is escaped."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def print_result(document: object, text: object, *, as_json: bool) -> None:
    """Print the result of a command: the whole document for programs, or a sentence for people."""
    if as_json:
        print_json(document)
    else:
        print_line(text)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print aligned columns on a terminal. Otherwise print the header and rows with tabs, for `cut` and `awk`."""
    if not out.is_terminal:
        for row in (columns, *rows):
            print_raw("\t".join(clean(cell) for cell in row))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    out.print(table)


def count_fitting(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> int:
    """Return the number of columns, from the left, that fit on the terminal without folding. Without a terminal, all
    columns fit."""
    if not out.is_terminal:
        return len(columns)
    widths = [max(len(clean(cell)) for cell in column) for column in zip(columns, *rows, strict=True)]
    ends = accumulate(width + 2 for width in widths)  # rich separates columns by two spaces
    return max(1, sum(end - 2 <= out.width for end in ends))


def print_fields(fields: Mapping[str, object]) -> None:
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        print_line(f"{name:<{width}}  {value}")


def print_chunk(text: str) -> None:
    """Print a part of a longer text as it arrives, with its newlines and tabs but no other control character."""
    lines = ("\t".join(map(clean, line.split("\t"))) for line in text.split("\n"))
    sys.stdout.write("\n".join(lines))
    sys.stdout.flush()


def print_raw(line: str) -> None:
    """Print a line without wrapping it. The line must have no control characters (see `clean`)."""
    sys.stdout.write(line + "\n")


def format_time(unix_s: object) -> str:
    """Return a Unix time as this machine's local time, or "-" for anything but a number."""
    if not isinstance(unix_s, (int, float)):
        return "-"
    return datetime.fromtimestamp(unix_s).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def format_duration(total_s: float) -> str:
    minutes, seconds = divmod(round(total_s), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def plural(number: int, noun: str) -> str:
    """Return such as "1 row" or "1,200 rows"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def format_size(count: object) -> str:
    """Return a number of bytes with a decimal unit, or "-" for anything but a number."""
    if not isinstance(count, (int, float)):
        return "-"
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


@contextmanager
def activity_progress(subject: str) -> Iterator[Callable[[str, int], None]]:
    """Yield a function that shows an activity and the number of bytes that it has written.

    A terminal shows them with the elapsed time; other outputs get a line for each new activity.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    shown: set[str] = set()
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("", total=None)

        def report(activity: str, count: int) -> None:
            if not err.is_terminal and activity not in shown:
                print_note(f"{activity} {subject} …")
                shown.add(activity)
            progress.update(task, description=f"{activity} {clean(subject)}: {format_size(count)}")

        yield report


@contextmanager
def count_progress(subject: str, total: int) -> Iterator[Callable[[], None]]:
    """Yield a function that counts one more finished part of `total`.

    A terminal shows a bar; other outputs get a line for each tenth.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    done = 0
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(clean(subject), total=total)

        def advance() -> None:
            nonlocal done
            done += 1
            progress.advance(task)
            if not err.is_terminal and 10 * done // total > 10 * (done - 1) // total:
                print_note(f"{subject}: {done:,} of {total:,}")

        yield advance


def transfer_progress() -> Progress:
    """Return a progress bar for an upload or download; it is shown only on a terminal."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    )
