"""`attune up`, `attune api` and `attune worker` on a terminal: what a person sees, and that ctrl-C ends all of it."""

import json
import re
import shutil
from pathlib import Path

import pytest

from api.cli.errors import ExitCode
from tests.api.cli.terminal import running_on_terminal
from tests.services.process import accepts_connections
from tests.services.valkey import Valkey


@pytest.fixture
def data(sqlite_template: Path, tmp_path: Path) -> Path:
    """A data folder after `attune migrate`."""
    shutil.copy(sqlite_template, tmp_path / "attune.db")
    return tmp_path


def log_lines(shown: str) -> list[dict[str, str]]:
    """What was logged. Each line must be JSON; the terminal itself shows the key that was pressed."""
    assert shown.count("^C") == 1
    return [json.loads(line) for line in shown.replace("^C", "").splitlines() if line]


def test_up_greets_with_a_key_a_link_and_its_address(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running_on_terminal("up", "--data-dir", data, "--port", 0, ATTUNE_SAMPLER="false") as up:
        up.wait_for("\r\nready http://", "\r\n")
        code = up.interrupt()
    assert up.shown.count("^C") == 1
    *told, ready, stopping = up.shown.replace("^C", "").splitlines()
    assert code == 0, up.shown
    assert (address := re.fullmatch(r"ready (http://127.0.0.1:(\d+))", ready)), up.shown
    assert [re.sub(r"^\d\d:\d\d:\d\d ", "", line).split(": ")[0] for line in told] == [
        "new operator key of project 'default', which is shown only once",
        "API key for programs on this machine",
        "dashboard",
        "logs",
    ]
    assert re.search(rf"dashboard: {address[1]}/sign-in#token=[\w-]+ signs a browser in, once", up.shown)
    assert re.fullmatch(r"\d\d:\d\d:\d\d stopping", stopping)
    assert not accepts_connections(int(address[2]))


def test_the_api_logs_its_address_and_its_end(data: Path) -> None:
    with running_on_terminal("api", "--data-dir", data, "--port", 0) as api:
        api.wait_for("Press CTRL+C")
        code = api.interrupt()
    assert code == ExitCode.INTERRUPTED, api.shown
    events = [line["event"] for line in log_lines(api.shown)]
    assert any(re.match(r"Uvicorn running on http://127.0.0.1:\d+ ", event) for event in events)
    assert "Application shutdown complete." in events


def test_the_stages_of_a_worker_say_that_they_are_ready_and_end_together(data: Path, valkey: Valkey) -> None:
    stages = ("--stage", "batch", "--stage", "evaluate")
    with running_on_terminal("worker", *stages, "--data-dir", data, ATTUNE_BROKER_URL=valkey.url) as worker:
        worker.wait_for("batch_worker_ready", "evaluation_worker_ready")
        code = worker.interrupt()
    assert code == 0, worker.shown
    assert {"batch_worker_ready", "evaluation_worker_ready"} <= {line["event"] for line in log_lines(worker.shown)}
