"""Commands on a pseudo-terminal: those that end by themselves run in this process, the others in one of their own."""

import os
import pty
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer.main

from api.cli.main import app
from tests.services.attune import ATTUNE
from tests.services.process import START_TIMEOUT_S


def run_on_terminal(*words: object) -> tuple[int, str]:
    """Return the exit code and all that the terminal shows."""
    reader, writer = pty.openpty()
    shown = bytearray()

    def drain() -> None:
        try:
            while chunk := os.read(reader, 65536):
                shown.extend(chunk)
        except OSError:  # how Linux ends a terminal that nobody writes to
            pass

    draining = threading.Thread(target=drain)
    draining.start()
    before = sys.stdout, sys.stderr
    with open(writer, "w", buffering=1) as terminal:
        sys.stdout = sys.stderr = terminal
        try:
            typer.main.get_command(app).main([str(word) for word in words], prog_name="attune")
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            sys.stdout, sys.stderr = before
    draining.join()
    os.close(reader)
    return code, shown.decode()


class RunningCommand:
    """An `attune …` process whose controlling terminal it is, so that ctrl-C reaches all that a person's would."""

    def __init__(self, *words: object, **environment: str) -> None:
        self.shown = ""
        self._reader, writer = pty.openpty()
        self.process = subprocess.Popen(
            [ATTUNE, *map(str, words)],
            env={**os.environ, "TERM": "xterm-256color", **environment},
            preexec_fn=lambda: os.login_tty(writer),  # noqa: PLW1509 (one system call after another, no Python locks)
        )
        os.close(writer)

    def wait_for(self, *texts: str) -> None:
        """Until the terminal has shown all of these texts."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not all(text in self.shown for text in texts):
            assert self._read(deadline), f"{texts} not shown, but:\n{self.shown}"

    def interrupt(self) -> int:
        """Press ctrl-C. Return the exit code, after the end of every process that writes to the terminal."""
        os.write(self._reader, b"\x03")
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._read(deadline):
            pass
        return self.process.wait(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """End it, as a person does who closes the window."""
        os.close(self._reader)
        self.process.wait(START_TIMEOUT_S)

    def _read(self, deadline: float) -> bool:
        """Wait for more text. Return False at the end, or after the deadline."""
        if not select.select([self._reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        try:
            chunk = os.read(self._reader, 65536)
        except OSError:  # how Linux ends a terminal that nobody writes to
            return False
        self.shown += chunk.decode()
        return bool(chunk)


@contextmanager
def running_on_terminal(*words: object, **environment: str) -> Iterator[RunningCommand]:
    command = RunningCommand(*words, **environment)
    try:
        yield command
    finally:
        command.close()
