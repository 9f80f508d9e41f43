"""Wait for an object on the server to end, also while the server restarts.

`watch_counts` shows the progress: on a terminal as a bar on stderr, otherwise as a line for each status, each tenth of
the work and each error.
"""

import math
import time
from collections.abc import Callable, Container
from datetime import datetime

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from api.cli.client import Document
from api.cli.console import clean, err, is_watched, print_line, print_note
from api.cli.errors import CommandError, ExitCode

POLL_S = 1.0
NOT_BEGUN_S = 30.0
"""Seconds after which a note says that nothing has begun yet."""
MAX_OUTAGE_S = 90.0
"""Seconds for which the server may be unreachable before waiting fails."""


class Outage:
    """The time for which a server has not answered a command that repeats a request."""

    def __init__(self) -> None:
        self._since: float | None = None

    def end(self) -> None:
        self._since = None

    def endure(self, error: CommandError) -> None:
        """Print a note at the first error. Raise the error if it cannot pass, or after MAX_OUTAGE_S."""
        if error.code is not ExitCode.UNAVAILABLE:
            raise error
        if self._since is None:
            self._since = time.monotonic()
            print_note(f"{error.message} Trying again …")
        if time.monotonic() - self._since > MAX_OUTAGE_S:
            raise error


def wait_until_ended(
    look: Callable[[], Document], final: Container[str], *, subject: str, deadline: float | None = None
) -> Document:
    """Call `look` each second until the object that it returns has a final status, and return that object.

    Raise CommandError after an outage of MAX_OUTAGE_S, and after the deadline (`time.monotonic`).
    """
    outage, status = Outage(), "unknown"
    while True:
        try:
            found = look()
            status = found["status"]
            if status in final:
                return found
            outage.end()
        except CommandError as error:
            outage.endure(error)
        if deadline is not None and time.monotonic() > deadline:
            raise CommandError(ExitCode.UNAVAILABLE, f"{subject} has not ended in time: it is {status}.")
        time.sleep(POLL_S)


def watch_counts(
    look: Callable[[], Document],
    final: Container[str],
    describe: Callable[[Document], tuple[str, int, int]],
    *,
    subject: str,
    stage: str,
    quiet: bool,
) -> Document | None:
    """Show the progress of an object until it ends, and return it; None after Ctrl-C.

    `describe` returns a line of text, the number of finished parts, and the number of all parts, 0 until a worker of
    the `stage` has counted them. `quiet`: show nothing.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    shown: set[tuple[object, ...]] = set()
    note_at = time.monotonic() + NOT_BEGUN_S
    with Progress(*columns, console=err, transient=True, disable=quiet or not is_watched()) as bar:
        task = bar.add_task("", total=None)

        def look_and_show() -> Document:
            nonlocal note_at
            found = look()
            text, done, total = describe(found)
            bar.update(task, description=clean(text), completed=done, total=total or None)
            error = str(found.get("error"))  # of a run that continues: why it waits
            step = (found["status"], 10 * done // max(1, total), error)
            if not quiet and not is_watched() and step not in shown:
                print_line(f"{clock_time(time.time())}  {text}")
            shown.add(step)
            if not (quiet or total or found["status"] in final) and time.monotonic() >= note_at:
                print_note(f"Nothing has begun yet. `attune workers` shows whether a worker of the stage {stage} runs.")
                note_at = math.inf
            return found

        try:
            return wait_until_ended(look_and_show, final, subject=subject)
        except KeyboardInterrupt:
            print_note(f"Stopped watching; {subject} keeps running.")
            return None


def clock_time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s).astimezone().strftime("%H:%M:%S")
