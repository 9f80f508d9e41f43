"""Child programs as a worker runs them: forked by a server that has imported them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from api.infra.child_environment import usable_cores
from api.infra.child_process import Process, fork_server
from api.spec.lifecycle import Stage
from tests.worker import measured_child
from worker.supervisor.child import REPORT_FD
from worker.supervisor.node import PROGRAMS

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    code: int
    peak_bytes: int
    """Resident memory of the child and its own children."""


def fork(program: str, *arguments: str, output: Path, report_fd: int, env: Mapping[str, str] | None = None) -> Process:
    """`env`: variables that the child has besides this process's."""
    stage = Stage.TRAIN if program in PROGRAMS[Stage.TRAIN] else Stage.PREPARE
    # The arguments of a worker with one slot, so that all tests share its server. OMP_NUM_THREADS is set, and decides.
    threads = usable_cores() if stage is Stage.TRAIN else None
    with output.open("ab") as file:
        return fork_server(*PROGRAMS[stage], threads=threads).start(
            program,
            *arguments,
            environment={**os.environ, **(env or {})},
            output=file,
            descriptors={REPORT_FD: report_fd},
        )


def run_child(program: str, folder: Path, report: Path | None = None) -> Ended:
    """Run `python -m PROGRAM FOLDER` to its end. `report`: a file for what it reports on its pipe."""
    with (report or Path(os.devnull)).open("wb") as reports:
        child = fork(measured_child.__name__, program, str(folder), output=Path(os.devnull), report_fd=reports.fileno())
    code = child.wait()
    peak = folder / measured_child.PEAK_FILE
    return Ended(code, int(peak.read_text()) if peak.exists() else 0)
