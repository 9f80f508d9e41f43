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
from collections.abc import Mapping
from functools import cache
from typing import IO, Protocol

import msgspec
import structlog

from api.infra.child_environment import child_environment
from api.spec.fork_request import ForkRequest

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
    return subprocess.Popen(
        [sys.executable, "-m", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        pass_fds=list(files.values()),
        env={**environment, **{name: str(number) for name, number in files.items()}},
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
        lent: bool = False,
    ) -> None:
        """`modules`: the modules that the server imports, or prepares (`MODULE:ARGUMENT`). `environment`: the server's
        environment variables; None: those of a child with so many `threads` (see `child_environment`). `lent`: begin
        with the server that the parent lends, which has imported these modules."""
        self._modules = modules
        self._environment = child_environment(threads=threads) if environment is None else environment
        self._lock = threading.Lock()
        self._server = _LentServer() if lent else _Server(modules, self._environment)
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
        except (OSError, ValueError) as error:
            log.warning("not_forked", program=program, error=type(error).__name__)
            server.kill()  # else a slow server might still start the program, a second time
            ours.close()
            os.close(write_stdin)
            return start_fresh(program, *arguments, environment=environment, output=output, descriptors=files)
        finally:
            reports.close()
            os.close(read_stdin)
        return ForkedProcess(program, pid, ours, os.fdopen(write_stdin, "wb"))

    def lend(self) -> dict[str, int]:
        """Return the descriptor to pass to a process which may use the server, too, until it ends."""
        return {LENT: self._server.requests.fileno()}

    def close(self) -> None:
        """Kill the server, unless it is another process's."""
        self._server.kill()

    def _running(self) -> "_LentServer":
        with self._lock:
            if self._server.ended:
                self._server = _Server(self._modules, self._environment)
            return self._server


class _LentServer:
    """The socket for requests to a server. Processes may share it, since each request is one message."""

    def __init__(self, requests: socket.socket | None = None) -> None:
        """`requests`: None: the socket that the parent has passed on."""
        self.requests = socket.socket(fileno=int(os.environ[LENT])) if requests is None else requests

    @property
    def ended(self) -> bool:
        return self.requests.fileno() < 0

    def send(self, request: ForkRequest, files: list[int]) -> None:
        socket.send_fds(self.requests, [msgspec.json.encode(request)], files)

    def kill(self) -> None:
        """Leave the server to its owner, and send it no more requests."""
        self.hang_up()

    def hang_up(self) -> None:
        """Close the socket for requests. The server ends once nobody can send it any, after its last child."""
        self.requests.close()


class _Server(_LentServer):
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


def fork_server(*modules: str, threads: int | None = None, lent: bool = False) -> ForkServer:
    """Return the fork server that this process has for these modules.

    The first call starts the server, which ends with this process. `lent`: use the one that the parent lends, if it
    does.
    """
    with _STARTING:  # without the lock, two threads could start two servers
        return _fork_server(*modules, threads=threads, lent=lent and LENT in os.environ)


_STARTING = threading.Lock()
_fork_server = cache(ForkServer)


class ForkedProcess:
    """A child of a fork server.

    If the server ends before the child, the child is killed: only the server can report the child's end.
    """

    def __init__(self, program: str, pid: int, reports: socket.socket, stdin: IO[bytes]) -> None:
        self.pid = pid
        self.stdin: IO[bytes] | None = stdin
        self._program, self._reports = program, reports
        self._lock = threading.Lock()
        self._code: int | None = None

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
            if self._code is None:
                self._reports.settimeout(timeout_s)
                try:
                    message = self._reports.recv(32)
                except (TimeoutError, BlockingIOError):
                    return None
                except ConnectionError:
                    message = b""
                self._code = int(message) if message else self._kill_orphan()
                self._reports.close()
            return self._code

    def _kill_orphan(self) -> int:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            log.info("child_gone", pid=self.pid)
        return -signal.SIGKILL
