"""The wall as the supervisor sees it: a process, its pipe, its stdin and its signals."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.worker.run_folders import finish, make_run, random_rows, start
from worker.shared.pipe import Pipe


@pytest.fixture
def run(tiny_llama: Path, tmp_path: Path) -> Path:
    """Long enough never to end by itself here."""
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 50, "batch_size": 1}}}
    training = {"save_every": 100_000}
    return make_run(tmp_path / "run", tiny_llama, train=random_rows(400, seed=1), method=method, training=training)


def _until_first_step(reports: Any) -> None:
    for line in reports:
        if json.loads(line)["type"] == "metrics":
            return


@pytest.mark.parametrize("how", ["pause", "stop", "end of stdin", "SIGTERM"])
def test_asked_to_stop_it_saves_a_state_and_says_so(how: str, run: Path) -> None:
    child, reports = start(run)
    _until_first_step(reports)
    assert child.stdin is not None
    if how == "SIGTERM":
        os.kill(child.pid, signal.SIGTERM)
    elif how == "end of stdin":
        child.stdin.close()
        child.stdin = None
    else:
        child.stdin.write(json.dumps({"cmd": how}).encode() + b"\n")
        child.stdin.flush()
    finished = finish(run, child, reports)
    assert finished.code == 0, finished.log
    assert finished.last["type"] == "stopped"
    state = finished.of("state")[-1]
    assert state["step"] == finished.last["step"]
    assert (run / state["path"] / "manifest.json").exists()


def test_run_by_hand_it_reports_on_standard_output(tiny_llama: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tiny_llama, train=random_rows(4, seed=1), training={"max_steps": 1})
    finished = subprocess.run(
        [sys.executable, "-m", "worker.train", str(run)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        timeout=240,
    )
    lines = [line for line in finished.stdout.decode().splitlines() if line.startswith("{")]
    assert json.loads(lines[-1])["type"] == "done"


def test_long_work_without_reports_sends_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    read_fd, write_fd = os.pipe()
    monkeypatch.setenv("ATTUNE_REPORT_FD", str(write_fd))
    monkeypatch.setattr("worker.shared.pipe.ALIVE_S", 0.001)
    pipe = Pipe()
    with os.fdopen(read_fd, "rb") as reports, os.fdopen(write_fd, "wb"), pipe.working():
        told = [json.loads(reports.readline()) for _ in range(2)]
    assert told == [{"type": "alive"}] * 2
    assert not [thread for thread in threading.enumerate() if thread.name == "signs of life"]
