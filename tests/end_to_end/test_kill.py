"""`kill -9` of each process during a job: it succeeds with no manual step, and its weights are the same bytes."""

import contextlib
import json
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from openai import OpenAI
from typer.testing import CliRunner

from api.cli.main import app
from tests.conftest import running_attune
from tests.end_to_end.jobs import (
    adapter_hash,
    client_of,
    create,
    ended,
    messages,
    metric_steps,
    rows,
    step_of,
    upload,
    wait_until,
)
from tests.services import AttuneUp

STEPS = 60
QUICK = {"ATTUNE_LEASE_S": "6", "ATTUNE_HEARTBEAT_S": "1", "ATTUNE_POLL_S": "0.5", "ATTUNE_SWEEP_S": "1"}


@pytest.fixture(scope="module")
def server(tiny_base: Path) -> Iterator[AttuneUp]:
    with running_attune(tiny_base, **QUICK) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: AttuneUp) -> OpenAI:
    return client_of(server)


@pytest.fixture(scope="module")
def file_id(client: OpenAI) -> str:
    return upload(client, rows(40))


@pytest.fixture(scope="module")
def undisturbed(client: OpenAI, file_id: str) -> str:
    """The hash of the weights that come out when nobody disturbs."""
    job_id = begin(client, file_id)
    assert ended(client, job_id).status == "succeeded"
    return adapter_hash(client, job_id)


def begin(client: OpenAI, file_id: str) -> str:
    technique = {"type": "lora", "rank": 4, "dropout": 0.1}
    return create(client, file_id, steps=STEPS, technique=technique, training={"save_every": 5})


VICTIMS = {
    "trainer": lambda server: server.pid_of("worker.train"),
    "worker": lambda server: server.pid_of("worker", "train"),
    "api": lambda server: server.pid_of("api.cli", "api"),
    "valkey": lambda server: server.pid_of("valkey-server"),
}


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_job_survives_kill_9_with_the_same_bytes(
    server: AttuneUp, client: OpenAI, file_id: str, undisturbed: str, victim: str
) -> None:
    job_id = begin(client, file_id)
    wait_until(lambda: step_of(client, job_id) >= 12)
    pid = VICTIMS[victim](server)
    os.kill(pid, signal.SIGKILL)
    job = ended(client, job_id)
    assert job.status == "succeeded", (job.error, messages(client, job_id))
    assert adapter_hash(client, job_id) == undisturbed
    assert metric_steps(client, job_id) == list(range(1, STEPS + 1)), "each step is told once"
    if victim in ("trainer", "worker"):
        assert any("resumes from step" in message for message in messages(client, job_id)), "it was killed in time"
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_worker_that_is_asked_to_stop_saves_and_charges_the_job_nothing(
    server: AttuneUp, client: OpenAI, file_id: str, undisturbed: str
) -> None:
    job_id = begin(client, file_id)
    wait_until(lambda: step_of(client, job_id) >= 12)
    os.kill(server.pid_of("worker", "train"), signal.SIGTERM)
    assert ended(client, job_id).status == "succeeded"
    assert adapter_hash(client, job_id) == undisturbed
    told = messages(client, job_id)
    assert any("worker shut down" in message for message in told), told
    assert any("resumes from step " in message for message in told), told


def test_attune_up_tells_where_it_is_keeps_its_secret_and_is_alone_on_its_folder(server: AttuneUp) -> None:
    credentials = server.data / "credentials.json"
    assert stat.S_IMODE(os.stat(credentials).st_mode) == 0o600
    assert json.loads(credentials.read_text()) == {"base_url": server.base_url, "api_key": server.api_key}
    assert server.api_key in server.log.read_text()
    refused = CliRunner().invoke(app, ["up", "--data-dir", str(server.data), "--port", "0"])
    assert refused.exit_code == 2
    assert f"process {server.pid}" in refused.output


def test_killing_attune_up_itself_leaves_no_process_and_loses_no_job(
    server: AttuneUp, client: OpenAI, file_id: str
) -> None:
    """Last: the server has another address then."""
    job_id = begin(client, file_id)
    wait_until(lambda: step_of(client, job_id) >= 12)
    children, key = server.children(), server.api_key
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(runs, children)), 60)
    server.start()
    assert server.api_key == key
    assert key not in server.log.read_text(), "shown once"
    assert ended(client_of(server), job_id).status == "succeeded"
    children = server.children()
    server.stop()
    assert not [child for child in children if runs(child)]


def runs(process: psutil.Process) -> bool:
    """Whether it does. The system may not have read yet how it ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
