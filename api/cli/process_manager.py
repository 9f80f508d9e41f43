"""A handful of processes that belong together: start them, start again what died, stop them in order."""

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
"""A process that has run for so long is not in a crash loop."""
WATCH_S = 0.2
_PR_SET_PDEATHSIG = 1


@dataclass
class ManagedProcess:
    """One process, and what is needed to start it again as it was."""

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    log_file: Path | None = None
    """None: the same standard error as ours."""
    stdin: bytes | None = None
    pass_fds: Sequence[int] = ()
    grace_s: float = 10.0
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    deaths: int = 0
    start_at: float | None = None

    def start(self) -> None:
        output: IO[bytes] | None = self.log_file.open("ab") if self.log_file else None
        self.process = subprocess.Popen(
            self.command,
            env=self.environment,
            stdin=subprocess.PIPE if self.stdin is not None else subprocess.DEVNULL,
            stdout=output or sys.stderr,
            stderr=output or sys.stderr,
            pass_fds=self.pass_fds,
            start_new_session=True,  # ctrl-C is for us alone: we stop the parts in order
            preexec_fn=_end_with_parent,  # noqa: PLW1509 (this process has one thread)
        )
        if output:
            output.close()
        if self.stdin is not None:
            assert self.process.stdin is not None
            self.process.stdin.write(self.stdin)
            self.process.stdin.close()
        self.started_at, self.start_at = time.monotonic(), None

    def restart_if_dead(self, say: Callable[[str], None]) -> None:
        """Notice a death, and start again when the back-off is over."""
        if self.process is not None and (code := self.process.poll()) is not None:
            self.process = None
            self.deaths = 0 if time.monotonic() - self.started_at > HEALTHY_S else self.deaths
            wait_s = BACKOFF_S[min(self.deaths, len(BACKOFF_S) - 1)]
            self.deaths += 1
            self.start_at = time.monotonic() + wait_s
            where = f" (see {self.log_file})" if self.log_file else ""
            say(f"{self.name} ended with code {code}{where}; starting it again in {wait_s:g} s")
        if self.start_at is not None and time.monotonic() >= self.start_at:
            self.start()

    def stop(self) -> None:
        """Ask it to end, and wait; after its grace, end it."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(self.grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


@dataclass
class ProcessManager:
    """Started in their order, stopped in the reverse of it."""

    say: Callable[[str], None]
    parts: list[ManagedProcess] = field(default_factory=list)
    stopping: bool = False

    def start(self, part: ManagedProcess, *, ready: Callable[[], bool] | None = None, timeout_s: float = 60.0) -> bool:
        """Start a part and wait until it is ready. Returns whether it became so before the time or a signal."""
        self.parts.append(part)
        part.start()
        give_up_at = time.monotonic() + timeout_s
        while ready is not None and not ready():
            if self.stopping or time.monotonic() > give_up_at:
                return False
            part.restart_if_dead(self.say)
            time.sleep(WATCH_S / 4)
        return True

    def watch(self) -> None:
        """Until a signal asks us to stop."""
        while not self.stopping:
            for part in self.parts:
                part.restart_if_dead(self.say)
            time.sleep(WATCH_S)

    def stop(self) -> None:
        for part in reversed(self.parts):
            part.stop()

    def stop_on_signals(self) -> None:
        def stop(number: int, frame: FrameType | None) -> None:
            self.stopping = True

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, stop)


def _end_with_parent() -> None:
    """Ask the kernel to end this process when its parent dies, however that happens (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
