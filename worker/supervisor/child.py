"""A child process behind the wall (docs/internals/wall.md): its start, the pipe of its reports, and the commands on its
stdin."""

import json
import os
import queue
import signal
import subprocess
import threading
import time
from pathlib import Path

import msgspec
import structlog

from api.infra.child_environment import child_environment
from api.infra.child_process import ForkServer, start_fresh
from worker.shared.reports import TRAINER_REPORTS, Kinds, Report, decode

log = structlog.get_logger(__name__)

REPORT_FD = "ATTUNE_REPORT_FD"
MAX_REPORT_BYTES = 1024 * 1024
LOG_TAIL_BYTES = 4096


class Child:
    """A running child. If this process dies, the child's stdin closes, and the child saves its state and exits."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        gpu: str | None = None,
        log_file: Path,
        threads: int | None = None,
        reports: Kinds = TRAINER_REPORTS,
        server: ForkServer | None = None,
    ) -> None:
        """Start the program `module`: fork it by `server`, or start a new Python process if `server` is None.
        `reports`: the reports that the child may send."""
        start = start_fresh if server is None else server.start
        with log_file.open("ab") as output:
            read_fd, write_fd = os.pipe()
            try:
                self._process = start(
                    module,
                    *arguments,
                    environment=child_environment(gpu, threads),
                    output=output,
                    descriptors={REPORT_FD: write_fd},
                )
            except BaseException:
                os.close(read_fd)
                raise
            finally:
                os.close(write_fd)
        self.log_file = log_file
        self.silent_s = 0.0
        """Seconds that this process has listened for a report since the child's last one. Time in which this process
        was busy or suspended does not count: reports of that time wait in the pipe, and a suspended machine suspends
        the child, too."""
        self._kinds = reports
        self._reports: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(read_fd,), name=f"reports-{self.pid}", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def next_report(self, timeout_s: float) -> Report | None:
        """Return the next report, or None once the child has closed the pipe. Raises TimeoutError if none comes within
        `timeout_s`."""
        listened_from = time.monotonic()
        try:
            report = self._reports.get(timeout=timeout_s)
        except queue.Empty:
            self.silent_s += min(time.monotonic() - listened_from, 2 * timeout_s)
            raise TimeoutError from None
        self.silent_s = 0.0
        if report is None:
            self._reports.put(None)
        return report

    def command(self, **command: object) -> None:
        """Send a command. Raises nothing if the child has ended: `next_report` then returns None."""
        assert self._process.stdin is not None
        line = json.dumps(command).encode() + b"\n"
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except (OSError, ValueError) as error:  # ValueError: `kill` has closed stdin
            log.info("child_gone", pid=self.pid, command=command.get("cmd"), error=type(error).__name__)

    def wait(self, timeout_s: float) -> int:
        """Wait for the child's end and return its exit code. Kill the child if it still runs after `timeout_s`."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """Kill the child and the processes that it started. Return the child's exit code."""
        if self.alive:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                log.info("child_gone", pid=self.pid)
        code = self._process.wait()
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except OSError:
                log.info("child_gone", pid=self.pid)
        return code

    def dump_stacks(self) -> None:
        """Make a hung child write its threads' stacks into its log: send the signal that the child has registered with
        faulthandler."""
        if self.alive:
            os.kill(self.pid, signal.SIGUSR1)

    def log_tail(self) -> str:
        """Return the end of the child's output; empty if the file is gone."""
        try:
            return self.log_file.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
        except OSError:
            return ""

    def _read(self, read_fd: int) -> None:
        try:
            with os.fdopen(read_fd, "rb") as pipe:
                while line := pipe.readline(MAX_REPORT_BYTES):
                    self._receive(line)
        finally:
            self._reports.put(None)

    def _receive(self, line: bytes) -> None:
        try:
            self._reports.put(decode(line, self._kinds))
        except (msgspec.DecodeError, RecursionError):
            log.warning("bad_report", pid=self.pid, bytes=len(line))
