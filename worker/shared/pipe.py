"""A child's end of the pipes through the wall: it writes reports and reads commands (docs/internals/wall.md)."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType
from typing import TypeAlias

from worker.shared.reports import AliveReport, ProgressReport, Report, WarningReport, encode

Command: TypeAlias = dict[str, object]
"""A command of the supervisor: a JSON object whose `cmd` is stop, pause, verdict, sample or cancel."""

REPORT_FD = "ATTUNE_REPORT_FD"
STDIN, STDOUT = 0, 1

ALIVE_S = 5.0
"""Minimum number of seconds between two signs of life."""
WORKING_S = 2 * 3600.0
"""Maximum number of seconds for which `Pipe.working` sends signs of life."""
PROGRESS_S = 1.0
"""Minimum number of seconds between two progress reports."""
ORPHAN_S = 60.0
"""Seconds for which the child continues without a parent: enough to finish a step and save a state."""


class Pipe:
    """The child's ends of the pipes. Without `ATTUNE_REPORT_FD`, as when the child is run by hand, reports are written
    to standard output and stdin is ignored."""

    def __init__(self) -> None:
        descriptor = os.environ.get(REPORT_FD)
        self.commanded = descriptor is not None
        """Whether a supervisor reads the reports and sends commands."""
        self._report_fd = STDOUT if descriptor is None else int(descriptor)
        self._writing = threading.Lock()
        self._commands = _lines(STDIN)
        self._stop = threading.Event()
        self.verdicts: SimpleQueue[Command] = SimpleQueue()
        """The verdicts that `listen` has received."""
        self._alive_at = 0.0

    @property
    def stopping(self) -> bool:
        """Whether the trainer is to finish its step, save a state and exit."""
        return self._stop.is_set()

    def report(self, report: Report) -> None:
        line = encode(report)
        try:
            with self._writing:
                while line:
                    line = line[os.write(self._report_fd, line) :]
        except BrokenPipeError:
            self._stop.set()  # the parent has died: act as on a stop command

    def warn(self, message: str) -> None:
        """Send the user a message."""
        self.report(WarningReport(message=message))

    def alive(self) -> None:
        """Send a sign of life, at most every ALIVE_S. Without reports, the supervisor takes the child for hung."""
        if time.monotonic() - self._alive_at > ALIVE_S:
            self._alive_at = time.monotonic()
            self.report(AliveReport())

    @contextmanager
    def working(self) -> Iterator[None]:
        """Send signs of life during a block that reports nothing for minutes, such as the loading of a large model.

        The signs of life end after WORKING_S, so that a block that hangs is noticed.
        """
        ended = threading.Event()
        deadline = time.monotonic() + WORKING_S

        def send() -> None:
            while not ended.wait(ALIVE_S) and time.monotonic() < deadline:
                self.alive()

        thread = threading.Thread(target=send, name="signs of life", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def commands(self) -> Iterator[Command]:
        """Yield commands until the parent closes stdin or dies."""
        return self._commands

    def listen(self) -> None:
        """From now on, receive commands. Pause, stop, the end of stdin and SIGTERM set `stopping`; verdicts are put
        into `verdicts`."""
        signal.signal(signal.SIGTERM, self._on_signal)
        if self.commanded:
            threading.Thread(target=self._obey, name="commands", daemon=True).start()
        else:
            signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop.set()

    def _obey(self) -> None:
        for command in self._commands:
            if command.get("cmd") in ("pause", "stop"):
                self._stop.set()
            elif command.get("cmd") == "verdict":
                self.verdicts.put(command)
        # The parent has died. The trainer sees `stopping` between steps; if it hangs, it must not keep the GPU.
        self._stop.set()
        threading.Event().wait(ORPHAN_S)
        os._exit(3)


def _lines(descriptor: int) -> Iterator[Command]:
    """Yield commands until stdin ends. Reads the descriptor with `os.read`, not `sys.stdin`: a thread blocked in
    `sys.stdin` holds the buffer's lock, which the interpreter needs at exit."""
    rest = b""
    while chunk := os.read(descriptor, 65536):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            try:
                command = json.loads(line)
            except ValueError:
                continue
            if isinstance(command, dict):
                yield command


class Progress:
    """Reports how many rows of a file have been read."""

    def __init__(self) -> None:
        self._pipe = Pipe()
        self._next = 0.0

    def __call__(self, file: str, rows: int, done: bool) -> None:
        if done or time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS_S
            self._pipe.report(ProgressReport(file=file, rows=rows))
