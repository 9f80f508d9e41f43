"""Child programs in fresh processes, forked from one that has imported them: a fork takes milliseconds.

What one child does to its process (limits, environment, memory) ends with it, as in production, where each program is
started anew (`python -m worker.prepare RUN_DIR`; tests/worker/supervisor runs them so).
"""

import atexit
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAMS = ("worker.prepare", "worker.scan")


@dataclass(frozen=True)
class Ended:
    code: int
    peak_bytes: int
    """Resident memory of the child and its own children."""


def run_child(program: str, folder: Path, report: Path | None = None) -> Ended:
    """Run `python -m PROGRAM FOLDER` to its end. `report`: a file for what it reports on its pipe."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    request = {"program": program, "folder": str(folder), "report": str(report or os.devnull)}
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return Ended(**json.loads(server.stdout.readline()))


@cache
def _server() -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.worker.children"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    atexit.register(server.kill)
    return server


def _serve() -> None:
    for program in PROGRAMS:
        import_module(program)
    answers = os.dup(1)
    os.dup2(2, 1)  # what a child prints is no answer
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(**request)
        _, status, usage = os.wait4(child, 0)
        ended = {"code": os.waitstatus_to_exitcode(status), "peak_bytes": usage.ru_maxrss * 1024}
        os.write(answers, (json.dumps(ended) + "\n").encode())


def _become(program: str, folder: str, report: str) -> None:
    code = 70
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ["ATTUNE_REPORT_FD"] = str(os.open(report, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
        code = import_module(program).main(Path(folder))
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
