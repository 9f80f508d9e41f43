"""Child processes that are started together, restarted after a crash and stopped together."""

import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

from api.cli.service import COMMANDS, signal_at_parents_end
from api.infra.child_process import ForkServer, Process, start_fresh

BACKOFF_S = (0.2, 1.0, 2.0, 5.0, 15.0, 30.0)
HEALTHY_S = 60.0
"""If a process crashes after more than these seconds, it is not in a crash loop, and its back-off starts over."""
POLL_S = 0.2


@dataclass
class ManagedProcess(ABC):
    """A process and all that is needed to restart it."""

    name: str
    environment: dict[str, str]
    log_file: Path | None = None
    """File that the process's output is appended to. None: the output goes to the standard error of the manager."""
    grace_s: float = 10.0
    """Seconds between SIGTERM and SIGKILL."""
    stops_last: bool = False
    """Whether other processes need this one until they have ended."""
    process: Process | None = None
    started_at: float = 0.0
    crashes: int = 0
    """Consecutive crashes, each within HEALTHY_S of its start."""
    restart_at: float | None = None
    """Monotonic time of the next restart; None unless one is due."""
    kill_at: float = 0.0
    """Monotonic time of the SIGKILL, after `terminate`."""

    def start(self) -> None:
        output: IO[bytes] = self.log_file.open("ab") if self.log_file else sys.stderr.buffer
        self.process = self.launch(output)
        if self.log_file:
            output.close()
        self.started_at, self.restart_at = time.monotonic(), None

    @abstractmethod
    def launch(self, output: IO[bytes]) -> Process:
        """Start the process, with its standard output and error in `output`."""

    def restart_if_dead(self, log: Callable[[str], None]) -> None:
        """Log the end of the process, and restart it once the back-off is over."""
        if self.process is not None and (code := self.process.poll()) is not None:
            self.process = None
            self.crashes = 0 if time.monotonic() - self.started_at > HEALTHY_S else self.crashes
            where = f" (see {self.log_file})" if self.log_file else ""
            log(f"{self.name} exited with code {code}{where}; restarting it in {self._back_off():g} s")
        if self.restart_at is not None and time.monotonic() >= self.restart_at:
            try:
                self.start()
            except OSError as error:  # too many processes, or too little memory: the other processes still run
                log(f"{self.name} did not start: {error.strerror}; trying again in {self._back_off():g} s")

    def _back_off(self) -> float:
        """Set the time of the next restart. Return the seconds until then."""
        backoff_s = BACKOFF_S[min(self.crashes, len(BACKOFF_S) - 1)]
        self.crashes += 1
        self.restart_at = time.monotonic() + backoff_s
        return backoff_s

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._send(signal.SIGTERM)
        self.kill_at = time.monotonic() + self.grace_s

    def wait(self) -> None:
        """Wait for the end after `terminate`; send SIGKILL when the grace period is over."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, self.kill_at - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._send(signal.SIGKILL)
            self.process.wait()
        self.process = None

    def _send(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, number)


@dataclass
class Program(ManagedProcess):
    """An executable file."""

    command: Sequence[str] = ()
    stdin: bytes = b""

    def launch(self, output: IO[bytes]) -> Process:
        parent = os.getpid()
        process = subprocess.Popen(
            self.command,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,  # so that Ctrl-C does not reach the children, which `stop` ends in order
            preexec_fn=lambda: signal_at_parents_end(signal.SIGTERM, parent),  # noqa: PLW1509 (this process has one thread)
        )
        assert process.stdin is not None
        with process.stdin as pipe:
            pipe.write(self.stdin)
        return process


@dataclass
class Service(ManagedProcess):
    """A service of `api.cli.service`, named by `COMMANDS`."""

    service: str = ""
    server: ForkServer | None = None
    """Forks the service. None: each start is that of a new Python process."""
    descriptors: Mapping[str, int] = field(default_factory=dict)
    """File descriptors of the service, by the environment variables that hold their numbers there."""

    def launch(self, output: IO[bytes]) -> Process:
        start = start_fresh if self.server is None else self.server.start
        process = start(
            "api.cli.service",
            *COMMANDS[self.service],
            environment=self.environment,
            output=output,
            descriptors=self.descriptors,
        )
        assert process.stdin is not None
        process.stdin.close()
        return process


@dataclass
class ProcessManager:
    """Starts processes one after the other and stops them together."""

    log: Callable[[str], None]
    processes: list[ManagedProcess] = field(default_factory=list)
    stopping: bool = False

    def start(
        self, process: ManagedProcess, *, ready: Callable[[], bool] | None = None, timeout_s: float = 60.0
    ) -> bool:
        """Start a process and wait until `ready`. Return False after the time-out or a signal."""
        self.processes.append(process)
        process.start()
        deadline = time.monotonic() + timeout_s
        while ready is not None and not ready():
            if self.stopping or time.monotonic() > deadline:
                return False
            process.restart_if_dead(self.log)
            time.sleep(POLL_S / 4)
        return True

    def watch(self) -> None:
        """Restart processes that exit, until a signal asks to stop."""
        while not self.stopping:
            for process in self.processes:
                process.restart_if_dead(self.log)
            time.sleep(POLL_S)

    def stop(self) -> None:
        """Stop the processes in two rounds, those that `stops_last` in the second. In each, all stop at the same time:
        otherwise their grace periods would add up to more than a supervisor of this process waits."""
        for last in (False, True):
            stopped = [process for process in self.processes if process.stops_last is last]
            for process in stopped:
                process.terminate()
            for process in stopped:
                process.wait()

    def stop_on_signals(self) -> None:
        def stop(number: int, frame: FrameType | None) -> None:
            self.stopping = True

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores it
                signal.signal(number, stop)
