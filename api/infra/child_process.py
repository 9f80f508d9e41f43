"""Starts child processes from a fork server (`worker.fork_server`), a process that has already imported their programs.

By default, the server has the children's environment, not this process's, and so holds no secret. If the server cannot
start a child, the child is started as a new Python process, which is slower but otherwise the same.
"""

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from functools import cache
from typing import IO, Protocol

import msgspec
import psutil
import structlog

from api.infra.child_environment import child_environment
from api.spec.fork_request import GO, PARENT, ForkRequest

log = structlog.get_logger(__name__)

LENT = "ATTUNE_LENT_SERVER"
"""Environment variable with the number of the file descriptor of a server that the parent of this process has started
and lends to it (`ForkServer.lend`)."""

START_S = 120.0
"""Seconds that a server may take to import its modules and fork a child."""


class Process(Protocol):
    """A child process, with the methods that `subprocess.Popen` and ForkedProcess have in common.

    The child leads its own process group.
    """

    @property
    def pid(self) -> int: ...

    stdin: IO[bytes] | None

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once the child has ended. Raises subprocess.TimeoutExpired after `timeout` seconds."""


def start_fresh(
    program: str,
    *arguments: str,
    environment: Mapping[str, str],
    output: IO[bytes],
    descriptors: Mapping[str, int] | None = None,
) -> Process:
    """Start `python -m PROGRAM ARGUMENTS`.

    `descriptors`: file descriptors that stay open in the child. The key is the environment variable in which the child
    finds the descriptor's number.
    """
    files = descriptors or {}
    variables = {name: str(number) for name, number in files.items()}
    return subprocess.Popen(
        [sys.executable, "-m", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        pass_fds=list(files.values()),
        env={**environment, **variables, PARENT: str(os.getpid())},
        start_new_session=True,
    )


class ForkServer:
    """A fork server. It is started when this object is created; if it has ended, the next `start` starts another
    one."""

    def __init__(
        self,
        *modules: str,
        threads: int | None = None,
        environment: Mapping[str, str] | None = None,
        orphan_s: float = 0.0,
        lent: bool = False,
    ) -> None:
        """`modules`: the modules that the server imports, or prepares (`MODULE:ARGUMENT`). `environment`: the server's
        environment variables; None: those of a child with so many `threads` (see `child_environment`). `orphan_s`:
        seconds that a child has to end before it is killed, once the server has ended. `lent`: begin with the server
        that the parent lends, which has imported these modules."""
        self._modules, self._orphan_s = modules, orphan_s
        self._environment = child_environment(threads=threads) if environment is None else environment
        self._lock = threading.Lock()
        self._server = _ServerSocket() if lent else _Server(modules, self._environment)
        atexit.register(self.close)  # without this, a server that still imports would end only after that

    def start(
        self,
        program: str,
        *arguments: str,
        environment: Mapping[str, str],
        output: IO[bytes],
        descriptors: Mapping[str, int] | None = None,
    ) -> Process:
        """Start the same child as `start_fresh`, but faster."""
        files = descriptors or {}
        request = ForkRequest(program, list(arguments), dict(environment), list(files))
        server = self._running()
        ours, reports = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        read_stdin, write_stdin = os.pipe()
        try:
            server.send(request, [reports.fileno(), read_stdin, output.fileno(), *files.values()])
            reports.close()
            ours.settimeout(START_S)
            pid = int(ours.recv(32))
            if pid < 0:  # the exit code of a child that was killed at once
                raise ChildProcessError(pid)
            ours.send(GO)
        except (OSError, ValueError) as error:
            log.warning("not_forked", program=program, error=type(error).__name__)
            if isinstance(error, TimeoutError):  # the server hangs
                server.kill()
            ours.close()  # ends a child that the server forks later: it waits for GO
            os.close(write_stdin)
            return start_fresh(program, *arguments, environment=environment, output=output, descriptors=files)
        finally:
            reports.close()
            os.close(read_stdin)
        return ForkedProcess(program, pid, ours, os.fdopen(write_stdin, "wb"), self._orphan_s)

    def lend(self) -> dict[str, int]:
        """Return the descriptor to pass to a process which may use the server, too, until it ends."""
        return {LENT: self._server.requests.fileno()}

    def close(self) -> None:
        """Kill the server, unless it is another process's."""
        self._server.kill()

    def _running(self) -> "_ServerSocket":
        with self._lock:
            if self._server.ended:
                self._server = _Server(self._modules, self._environment)
            return self._server


class _ServerSocket:
    """The socket for requests to a server. Processes may share it, since each request is one message."""

    def __init__(self, requests: socket.socket | None = None) -> None:
        """`requests`: None: the socket that the parent has passed on."""
        self.requests = socket.socket(fileno=int(os.environ[LENT])) if requests is None else requests

    @property
    def ended(self) -> bool:
        return self.requests.fileno() < 0

    def send(self, request: ForkRequest, files: list[int]) -> None:
        try:
            socket.send_fds(self.requests, [msgspec.json.encode(request)], files)
        except ConnectionError:
            self.hang_up()  # the server is dead
            raise

    def kill(self) -> None:
        """Leave the server to its owner, and send it no more requests."""
        self.hang_up()

    def hang_up(self) -> None:
        """Close the socket for requests. The server ends once nobody can send it any, after its last child."""
        self.requests.close()


class _Server(_ServerSocket):
    """One server process, and the socket for requests to it."""

    def __init__(self, modules: tuple[str, ...], environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        super().__init__(ours)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "worker.fork_server", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # OpenBLAS starts its threads when it is loaded, and threads do not survive a fork. The other variable
                # lets PyTorch ask NVML whether there is a GPU: a process that has asked CUDA cannot fork.
                env={**environment, "OPENBLAS_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"},
                start_new_session=True,  # a Ctrl-C reaches this process only, which then kills the server
            )
        self.requests.send(msgspec.json.encode(modules))

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.hang_up()


def fork_server(*modules: str, threads: int | None = None, may_borrow: bool = False) -> ForkServer:
    """Return the fork server that this process has for these modules.

    The first call starts the server, which ends with this process. `may_borrow`: if the parent lends a server, use that
    one.
    """
    with _STARTING:  # without the lock, two threads could start two servers
        return _fork_server(*modules, threads=threads, lent=may_borrow and LENT in os.environ)


_STARTING = threading.Lock()
_fork_server = cache(ForkServer)


class ForkedProcess:
    """A child of a fork server.

    If the server ends before the child, the child is killed after `orphan_s` seconds: only the server can report the
    child's exit code.
    """

    def __init__(self, program: str, pid: int, reports: socket.socket, stdin: IO[bytes], orphan_s: float) -> None:
        self.pid = pid
        self.stdin: IO[bytes] | None = stdin
        self._program, self._reports, self._orphan_s = program, reports, orphan_s
        self._lock = threading.Lock()
        self._code: int | None = None
        self._kill_at: float | None = None
        """Monotonic time at which the child is killed; None while the server runs."""

    def poll(self) -> int | None:
        return self._receive(0.0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._receive(timeout)
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self._program, timeout)
        return code

    def _receive(self, timeout_s: float | None) -> int | None:
        with self._lock:
            if self._code is None and self._kill_at is None:
                self._reports.settimeout(timeout_s)
                try:
                    message = self._reports.recv(32)
                except (TimeoutError, BlockingIOError):
                    return None
                except ConnectionError:
                    message = b""
                self._reports.close()
                if message:
                    self._code = int(message)
                else:
                    self._kill_at = time.monotonic() + self._orphan_s
            if self._kill_at is not None and self._code is None:
                self._code = self._end_orphan(self._kill_at, timeout_s)
            return self._code

    def _end_orphan(self, kill_at: float, timeout_s: float | None) -> int | None:
        """Wait for the child, whose server has ended, and kill it at `kill_at`. Return None if it still runs."""
        left_s = max(0.0, kill_at - time.monotonic())
        try:
            psutil.Process(self.pid).wait(left_s if timeout_s is None else min(left_s, timeout_s))
        except psutil.NoSuchProcess:
            log.info("child_gone", pid=self.pid)
        except psutil.TimeoutExpired:
            if time.monotonic() < kill_at:
                return None
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            log.info("child_gone", pid=self.pid)
        return -signal.SIGKILL
