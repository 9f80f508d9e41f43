"""`python -m worker.fork_server SOCKET`: imports modules, then forks a child for each requested program.

A module with an argument (`MODULE:ARGUMENT`) has a function `prepare`, which is called with it, to load what all
children need.

Importing torch, transformers and peft takes seconds; a fork takes milliseconds. The server runs behind the wall, as its
children do (docs/internals/wall.md), and only imports, prepares, forks and waits. It starts no thread and does not use
the GPU, because threads and the state of a GPU do not survive a fork. If a library nevertheless starts a thread or uses
the GPU, each child is started as a new Python process. `api.infra.child_process` starts this server and sends it the
requests.
"""

import contextlib
import gc
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Iterable
from importlib import import_module
from typing import NoReturn

import msgspec
import psutil
from setproctitle import setproctitle

from api.spec.fork_request import GO, PARENT, ForkRequest

MAX_REQUEST_BYTES = 1 << 20
MAX_DESCRIPTORS = 8


def main(socket_fd: str) -> int:
    # First, because setproctitle looks for the environment where the kernel put it, and imports may move it.
    setproctitle(f"{sys.executable} -m worker.fork_server")
    # A service manager sends SIGTERM to all processes of a worker. The children then end in order, which only this
    # process can report.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    requests = socket.socket(fileno=int(socket_fd))
    variables = set(os.environ)
    gc.disable()  # garbage collection would take a sixth of the import time and free little
    for module in msgspec.json.decode(requests.recv(MAX_REQUEST_BYTES), type=list[str]):
        name, _, argument = module.partition(":")
        imported = import_module(name)
        if argument:
            imported.prepare(argument)
    gc.collect()
    gc.freeze()  # otherwise garbage collection in a child would write to, and so copy, the pages of all these objects
    gc.enable()
    ForkServer(requests, variables).serve()
    return 0


class ForkServer:
    def __init__(self, requests: socket.socket, variables: set[str]) -> None:
        """`variables`: names of the environment variables that this process was started with."""
        self._requests, self._variables = requests, variables
        self._single_threaded = psutil.Process().num_threads() == 1
        self._running: dict[int, socket.socket] = {}
        """The running children: {process id: socket on which the child's process id and exit code are reported}."""
        self._ended, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(requests, selectors.EVENT_READ)
        self._selector.register(self._ended, selectors.EVENT_READ)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)

    def serve(self) -> None:
        """Serve requests until the parent closes the socket, then wait until the last child has ended."""
        requested = True
        while requested or self._running:
            ready = {key.fileobj for key, _ in self._selector.select()}
            if self._ended in ready:
                self._ended.recv(4096)
                self._report_ends()
            if self._requests in ready:
                message, descriptors, _, _ = socket.recv_fds(self._requests, MAX_REQUEST_BYTES, MAX_DESCRIPTORS)
                if message:
                    self._fork(msgspec.json.decode(message, type=ForkRequest), descriptors)
                else:
                    requested = False
                    self._selector.unregister(self._requests)

    def _fork(self, request: ForkRequest, descriptors: list[int]) -> None:
        report_fd, *files = descriptors
        reports = socket.socket(fileno=report_fd)
        request.environment[PARENT] = str(os.getpid())
        try:
            pid = os.fork()
        except OSError:  # too many processes, or too little memory. The client learns of it by the end of `reports`.
            traceback.print_exc()
            _close_all(files)
            reports.close()
            return
        if pid == 0:
            self._close(self._running.values())
            _introduce(reports)
            _become(request, files, self._variables, usable=self._single_threaded and not _touched_gpu())
        _close_all(files)
        self._running[pid] = reports

    def _report_ends(self) -> None:
        for pid in list(self._running):
            end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if end is not None:
                reports = self._running.pop(pid)
                code = end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
                with contextlib.suppress(OSError):  # else the kernel reports an unread GO instead of the exit code
                    reports.recv(len(GO), socket.MSG_DONTWAIT)
                with reports, contextlib.suppress(OSError):  # the client has closed its end
                    reports.send(str(code).encode())
                os.waitpid(pid, 0)  # last, because it allows the kernel to reuse the process id

    def _close(self, sockets: Iterable[socket.socket]) -> None:
        """Close the server's own resources, which a forked child must not keep."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        self._selector.close()
        for each in (self._requests, self._ended, self._wakeup, *sockets):
            each.close()


def _close_all(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _introduce(reports: socket.socket) -> None:
    """Report this forked process, and end it if its client has given up, and perhaps started the program itself."""
    os.setsid()  # a process group of its own, so that the child's own children are killed with it
    with reports, contextlib.suppress(OSError):
        reports.send(str(os.getpid()).encode())
        if reports.recv(len(GO)) == GO:
            return
    os._exit(0)


def _become(request: ForkRequest, files: list[int], variables: set[str], *, usable: bool) -> NoReturn:
    """Run the requested program in this forked process, set up as if Python had been started with it. If the fork is
    not `usable` (it has threads or CUDA), start Python with the program instead."""
    code = 1
    try:
        stdin, output, *named = files
        for source, target in ((stdin, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        os.close(stdin)
        os.close(output)
        for name in variables - request.environment.keys():
            del os.environ[name]
        os.environ.update(request.environment)
        os.environ.update(zip(request.descriptors, map(str, named), strict=True))
        if not usable:
            for descriptor in named:
                os.set_inheritable(descriptor, True)
            os.execv(  # noqa: S606 (no shell)
                sys.executable,
                [sys.executable, "-m", request.program, *request.arguments],
            )
        setproctitle(" ".join([sys.executable, "-m", request.program, *request.arguments]))
        code = _run(request)
    except BaseException:  # of any kind: a forked process has no caller that would handle it
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _run(request: ForkRequest) -> int:
    try:
        code: int = import_module(request.program).main(*request.arguments)
    except SystemExit as end:
        if not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
            return 1
        return end.code
    return code


def _touched_gpu() -> bool:
    """Return whether an imported module has started CUDA, as some libraries do if they see a GPU."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda._is_in_bad_fork())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
