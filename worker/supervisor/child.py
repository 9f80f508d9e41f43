"""A child behind the wall: a process, the pipe that it reports on, and the stdin that it takes commands from."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger(__name__)

REPORT_FD = "ATTUNE_REPORT_FD"
MAX_REPORT_BYTES = 1024 * 1024

# What a child may know of its surroundings. Everything else (passwords, cloud credentials) stays on this side.
_PASSED_ON = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",  # an operator's allocator
    "VIRTUAL_ENV",
    "PYTHONPATH",
    "PYTHONDONTWRITEBYTECODE",
    "SOURCE_COMMIT",
)
_PASSED_ON_PREFIXES = (
    "OMP_",
    "MKL_",
    "NCCL_",
    "CUDA_",
    "CUBLAS_",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "ATTUNE_FAIL_AT",
    "ATTUNE_FRESH_PROOF",
)


class Child:
    """Started at once; its stdin stays open, and closes by itself if we die, which tells it to save and exit."""

    def __init__(
        self, module: str, *arguments: str, gpu: str | None = None, log_file: Path, threads: int | None = None
    ) -> None:
        read_fd, write_fd = os.pipe()
        with log_file.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[write_fd],
                env=_environment(gpu, threads) | {REPORT_FD: str(write_fd)},
                start_new_session=True,  # a group of its own: it is ended with all that it started
            )
        os.close(write_fd)
        self.log_file = log_file
        self.silent_s = 0.0
        """How long it has said nothing while we listened. Time in which we were busy, or stopped, does not count:
        what it said meanwhile waits in the pipe, and if everything stopped, it said nothing for the same reason."""
        self._reports: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(read_fd,), name=f"reports-{self.pid}", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def next_report(self, timeout_s: float) -> dict[str, Any] | None:
        """The next report; None once the child has closed the pipe. Raises TimeoutError if it says nothing so long."""
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

    def command(self, **command: Any) -> None:
        """Tell it something. That it is already gone shows at its pipe, not here."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            log.info("child_gone", pid=self.pid, command=command.get("cmd"), error=type(error).__name__)

    def wait(self, timeout_s: float) -> int:
        """Its exit code; kills it if it takes longer."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """End it and whatever it started; returns the exit code."""
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
        """Ask a hung child to write its stacks into its log (Python's faulthandler listens to this signal there)."""
        if self.alive:
            os.kill(self.pid, signal.SIGUSR1)

    def log_tail(self, bytes_total: int = 4096) -> str:
        try:
            return self.log_file.read_bytes()[-bytes_total:].decode(errors="replace")
        except OSError:
            return ""

    def _read(self, read_fd: int) -> None:
        try:
            with os.fdopen(read_fd, "rb") as pipe:
                while line := pipe.readline(MAX_REPORT_BYTES):
                    self._take(line)
        finally:
            self._reports.put(None)

    def _take(self, line: bytes) -> None:
        try:
            report = json.loads(line)
        except (ValueError, RecursionError):
            report = None
        if isinstance(report, dict) and isinstance(report.get("type"), str):
            self._reports.put(report)
        else:
            log.warning("bad_report", pid=self.pid, bytes=len(line))


def _environment(gpu: str | None, threads: int | None) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }
    if threads is not None:
        kept.setdefault("OMP_NUM_THREADS", str(threads))
    # CUDA numbers GPUs by their speed unless it is told otherwise; nvidia-smi, by which slots are made, by the bus.
    kept.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    return kept | {
        "CUDA_VISIBLE_DEVICES": gpu or "",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
