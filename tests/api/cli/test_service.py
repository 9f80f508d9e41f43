"""Services that are forked from one process behave as those that are new Python processes."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from api.cli import service
from api.cli.service import preloaded, shared_server
from api.cli.stages import worker_services
from api.infra.child_process import ForkServer, Process, start_fresh
from api.settings import Settings
from api.spec.lifecycle import DELIVER, SAMPLE, Stage
from tests.end_to_end.jobs import wait_until
from tests.services.attune import words_of


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    server = preloaded(Settings(data_dir=tmp_path_factory.mktemp("data")), [])
    yield server
    server.close()


def _started(server: ForkServer | None, folder: Path) -> tuple[Process, Path]:
    written = folder / "written"
    environment = {**os.environ, "ATTUNE_SECRET": "of the operator"}
    with (folder / "log").open("ab") as output:
        start = start_fresh if server is None else server.start
        arguments = ("api.cli.service", "tests.api.cli.a_service", str(written))
        process = start(*arguments, environment=environment, output=output)
    wait_until(lambda: written.exists() and written.read_text().startswith("started of the operator\n"), 30)
    return process, written


@pytest.mark.parametrize("forked", [True, False])
def test_a_service_ends_as_python_does(server: ForkServer, tmp_path: Path, forked: bool) -> None:
    process, written = _started(server if forked else None, tmp_path)
    assert words_of(psutil.Process(process.pid))[-3:] == ["-m", "tests.api.cli.a_service", "written"]
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(30) == 3
    assert written.read_text().splitlines()[1:] == ["stopping", "ended"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
def test_a_service_is_asked_to_end_when_the_process_ends_that_forked_it(server: ForkServer, tmp_path: Path) -> None:
    process, written = _started(server, tmp_path)
    os.kill(process.pid, signal.SIGSTOP)
    server.close()
    assert process.poll() is None, "killed at once"
    os.kill(process.pid, signal.SIGCONT)
    process.wait(30)
    assert written.read_text().splitlines()[1:] == ["stopping", "ended"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
def test_a_service_whose_parent_has_ended_before_it_runs_ends(server: ForkServer, tmp_path: Path) -> None:
    with (tmp_path / "log").open("ab") as output:
        process = server.start("tests.api.cli.a_late_service", environment=dict(os.environ), output=output)
    assert process.wait(30) == -signal.SIGTERM


def test_the_sampler_answers_chats_until_the_api_has_ended(tmp_path: Path) -> None:
    services = worker_services(Settings(data_dir=tmp_path, fork_server=False), [*Stage, SAMPLE, DELIVER], server=None)
    assert [each.service for each in services if each.stops_last] == [SAMPLE]
    assert sum(max(each.grace_s for each in services if each.stops_last is last) for last in (False, True)) <= 90, (
        "TimeoutStopSec in docs/operating.md"
    )


@pytest.mark.parametrize(
    ("stages", "slots", "gpus", "shared"),
    [
        ([*Stage, SAMPLE, DELIVER], 0, "", True),
        ([*Stage, SAMPLE], 1, "", True),
        ([*Stage, SAMPLE], 2, "", False),  # each trainer has half of the cores, the sampler all
        ([*Stage, SAMPLE], 0, "0", False),  # a process that has started CUDA cannot fork
        ([*Stage, DELIVER], 0, "", False),
    ],
)
def test_trainers_and_the_sampler_share_a_server_where_they_need_the_same(
    stages: list[str], slots: int, gpus: str, shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "ForkServer", lambda *modules, threads: (*modules, threads))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 3, 5})  # as with docker --cpuset-cpus=1,3,5
    monkeypatch.setattr(service, "which", lambda name: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    found: object = shared_server(Settings(data_dir=tmp_path, train_slots=slots), stages)
    assert found == (("worker.train", "worker.sample", 3) if shared else None)
