"""A pytest plugin of `make test`: each test process is forked from one that has imported what the tests import.

The imports take ten seconds of processor time, which each test process would otherwise spend by itself. It imports only
the test files, because pytest rewrites their assertions.
"""

import ast
import contextlib
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
REWRITTEN = ("tests", "hypothesis")
"""Packages that pytest wants to import by itself."""

_servers: list[subprocess.Popen[bytes]] = []


def pytest_xdist_setupnodes(config: Any, specs: list[Any]) -> None:
    """Let pytest-xdist run this file, as a client of the fork server, where it would run Python."""
    if sys.platform != "linux":
        return
    requests = socket.socket(socket.AF_UNIX)
    requests.bind("")  # the kernel chooses a name that is no file's
    requests.listen()
    command = [sys.executable, "-m", "tests.preloaded", str(requests.fileno())]
    _servers.append(subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, pass_fds=[requests.fileno()]))
    for spec in specs:
        spec.python = f"{sys.executable} {__file__} {requests.getsockname()[1:].decode()}"
    requests.close()


def pytest_unconfigure() -> None:
    while _servers:
        _servers.pop().communicate()  # a server ends with its input


def request_fork(name: str) -> None:
    """Give a fork this process's standard files, and wait until it has ended."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(f"\0{name}")
        socket.send_fds(server, [b"fork"], [0, 1, 2])
        server.recv(1)


def serve(requests: socket.socket) -> None:
    """Fork a test process for each request, until the input ends."""
    _preload()
    while requests in select.select([requests, sys.stdin], [], [])[0]:
        connection, _ = requests.accept()
        _, files, _, _ = socket.recv_fds(connection, 16, 3)
        if os.fork() == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            requests.close()
            for target, source in enumerate(files):
                os.dup2(source, target)
                os.close(source)
            exec(eval(sys.stdin.readline()), {"__name__": "__main__"})  # as execnet lets Python do
            sys.exit()
        for file in files:
            os.close(file)
        connection.close()


def _preload() -> None:
    warnings.filterwarnings("error", category=DeprecationWarning, module="api|worker")  # as in pyproject.toml
    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # else pyarrow starts a thread
    gc.disable()  # what an import makes stays
    import_module("worker.engine.openmp")  # before torch, as in every program
    for name in sorted(_imported_by_tests()):
        with contextlib.suppress(Exception):  # pytest reports it
            import_module(name)
    gc.collect()
    gc.freeze()
    gc.enable()
    del os.environ["JE_ARROW_MALLOC_CONF"]
    assert len(os.listdir("/proc/self/task")) == 1, "an import has started a thread, which forks would not have"


def _imported_by_tests() -> set[str]:
    bodies = [ast.parse(path.read_bytes()).body for path in (ROOT / "tests").rglob("test_*.py")]
    statements = [statement for body in bodies for statement in body]
    names = {alias.name for each in statements if isinstance(each, ast.Import) for alias in each.names}
    names |= {str(each.module) for each in statements if isinstance(each, ast.ImportFrom)}
    return {name for name in names if name.partition(".")[0] not in REWRITTEN}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the client and the server without a traceback
    if __package__:  # started by -m
        serve(socket.socket(fileno=int(sys.argv[1])))
    else:
        request_fork(sys.argv[1])
