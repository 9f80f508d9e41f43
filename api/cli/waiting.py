"""Wait for an object on the server to end, also while the server restarts."""

import time
from collections.abc import Callable, Container

from api.cli.client import Document
from api.cli.console import print_note
from api.cli.errors import CommandError, ExitCode

POLL_S = 1.0
MAX_OUTAGE_S = 90.0
"""Seconds for which the server may be unreachable before waiting fails."""


def wait_until_ended(
    look: Callable[[], Document], final: Container[str], *, subject: str, deadline: float | None = None
) -> Document:
    """Call `look` each second until the object that it returns has a final status, and return that object.

    Raise CommandError after an outage of MAX_OUTAGE_S, and after the deadline (`time.monotonic`).
    """
    unreachable_since: float | None = None
    status = "unknown"
    while True:
        try:
            found = look()
            status = found["status"]
            if status in final:
                return found
            unreachable_since = None
        except CommandError as error:
            if error.code is not ExitCode.UNAVAILABLE:
                raise
            if unreachable_since is None:
                unreachable_since = time.monotonic()
                print_note(f"{error.message} Trying again …")
            if time.monotonic() - unreachable_since > MAX_OUTAGE_S:
                raise
        if deadline is not None and time.monotonic() > deadline:
            raise CommandError(ExitCode.UNAVAILABLE, f"{subject} has not ended in time: it is {status}.")
        time.sleep(POLL_S)
