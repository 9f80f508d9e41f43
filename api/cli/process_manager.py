"""Child processes that are started together, restarted after a crash and stopped together."""

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

BACKOFF_S = (0.2, 1.0, 2.0, 5.0, 15.0, 30.0)
HEALTHY_S = 60.0
"""If a process crashes after more than these seconds, it is not in a crash loop, and its back-off starts over."""
POLL_S = 0.2
_PR_SET_PDEATHSIG = 1


@dataclass
class ManagedProcess:
    """A process and all that is needed to restart it."""

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    log_file: Path | None = None
    """File that the process's output is appended to. None: the output goes to the standard error of the manager."""
    stdin: bytes | None = None
    pass_fds: Sequence[int] = ()
    grace_s: float = 10.0
    """Seconds between SIGTERM and SIGKILL."""
    serves_others: bool = False
    """Whether the other processes need this one until they have ended."""
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    crashes: int = 0
    """Consecutive crashes, each within HEALTHY_S of its start."""
    restart_at: float | None = None
    """Monotonic time of the next restart; None unless one is due."""
    kill_at: float = 0.0
    """Monotonic time of the SIGKILL, after `terminate`."""

    def start(self) -> None:
        output: IO[bytes] | None = self.log_file.open("ab") if self.log_file else None
        self.process = subprocess.Popen(
            self.command,
            env=self.environment,
            stdin=subprocess.PIPE if self.stdin is not None else subprocess.DEVNULL,
            stdout=output or sys.stderr,
            stderr=output or sys.stderr,
            pass_fds=self.pass_fds,
            start_new_session=True,  # so that Ctrl-C does not reach the children, which `stop` ends in order
            preexec_fn=_terminate_with_parent,  # noqa: PLW1509 (this process has one thread)
        )
        if output:
            output.close()
        if self.stdin is not None:
            assert self.process.stdin is not None
            self.process.stdin.write(self.stdin)
            self.process.stdin.close()
        self.started_at, self.restart_at = time.monotonic(), None

    def restart_if_dead(self, log: Callable[[str], None]) -> None:
        """Log the end of the process, and restart it once the back-off is over."""
        if self.process is not None and (code := self.process.poll()) is not None:
            self.process = None
            self.crashes = 0 if time.monotonic() - self.started_at > HEALTHY_S else self.crashes
            backoff_s = BACKOFF_S[min(self.crashes, len(BACKOFF_S) - 1)]
            self.crashes += 1
            self.restart_at = time.monotonic() + backoff_s
            where = f" (see {self.log_file})" if self.log_file else ""
            log(f"{self.name} exited with code {code}{where}; restarting it in {backoff_s:g} s")
        if self.restart_at is not None and time.monotonic() >= self.restart_at:
            self.start()

    def terminate(self) -> None:
        """Send SIGTERM."""
        if self.process is not None:
            self.process.terminate()
            self.kill_at = time.monotonic() + self.grace_s

    def wait(self) -> None:
        """Wait for the end after `terminate`; send SIGKILL when the grace period is over."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, self.kill_at - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


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
        """Stop all processes at the same time, because their grace periods would otherwise add up to more than a
        supervisor of this process waits. Those that serve others are stopped last."""
        for last in (False, True):
            stopped = [process for process in self.processes if process.serves_others is last]
            for process in stopped:
                process.terminate()
            for process in stopped:
                process.wait()

    def stop_on_signals(self) -> None:
        def stop(number: int, frame: FrameType | None) -> None:
            self.stopping = True

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, stop)


def _terminate_with_parent() -> None:
    """Ask the kernel to send this process SIGTERM when its parent dies, even if the parent is killed (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
