"""Services that are forked from one process behave as those that are new Python processes."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from api.cli.service import preloaded
from api.infra.child_process import ForkServer, Process, start_fresh
from tests.end_to_end.jobs import wait_until
from tests.services.attune import words_of


@pytest.fixture
def server() -> Iterator[ForkServer]:
    server = preloaded([])
    yield server
    server.close()


def _started(server: ForkServer | None, folder: Path) -> tuple[Process, Path]:
    written = folder / "written"
    environment = {**os.environ, "ATTUNE_SECRET": "of the operator"}
    with (folder / "log").open("ab") as output:
        start = start_fresh if server is None else server.start
        arguments = ("api.cli.service", "tests.api.cli.a_service", str(written))
        service = start(*arguments, environment=environment, output=output)
    wait_until(lambda: written.exists() and written.read_text().startswith("started of the operator\n"), 30)
    return service, written


@pytest.mark.parametrize("forked", [True, False])
def test_a_service_ends_as_python_does(server: ForkServer, tmp_path: Path, forked: bool) -> None:
    service, written = _started(server if forked else None, tmp_path)
    assert words_of(psutil.Process(service.pid))[-3:] == ["-m", "tests.api.cli.a_service", "written"]
    os.kill(service.pid, signal.SIGTERM)
    assert service.wait(30) == 3
    assert written.read_text().splitlines()[1:] == ["stopping", "ended"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
def test_a_service_is_asked_to_end_when_the_process_ends_that_forked_it(server: ForkServer, tmp_path: Path) -> None:
    service, written = _started(server, tmp_path)
    parent = psutil.Process(service.pid).parent()
    assert parent is not None
    parent.kill()
    wait_until(lambda: written.read_text().endswith("ended\n"), 30)
    assert service.wait(30) == -signal.SIGKILL
