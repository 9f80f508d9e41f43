"""Hours of random faults against a whole Attune, while its promises are checked: `make soak`, ATTUNE_SOAK_MINUTES."""

import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest
from openai import APIError, OpenAI
from sqlalchemy import select

from api.records.jobs import Job
from api.records.models import Model
from api.settings import Settings
from api.spec.lifecycle import FINAL
from tests.conftest import opened, running_attune
from tests.end_to_end.jobs import adapter_files, client_of, create, rows, upload, wait_until
from tests.services import AttuneUp
from tests.services.attune import words_of

QUICK = {"ATTUNE_LEASE_S": "6", "ATTUNE_HEARTBEAT_S": "1", "ATTUNE_POLL_S": "0.5", "ATTUNE_SWEEP_S": "1"}
PARTS = (
    ("worker.train",),
    ("worker.fork_server",),
    ("worker", "train"),
    ("worker", "prepare"),
    ("api.cli", "api"),
    ("valkey-server",),
)
JOBS_AT_ONCE = 4


@pytest.mark.soak
def test_promises_hold_under_random_faults(tiny_base: Path) -> None:
    seed = int(os.environ.get("ATTUNE_TEST_SEED", time.time_ns() % 2**31))
    print(f"ATTUNE_TEST_SEED={seed}")
    rng = random.Random(seed)
    accepted: list[str] = []
    end_at = time.monotonic() + 60 * float(os.environ.get("ATTUNE_SOAK_MINUTES", "60"))
    with running_attune(tiny_base, **QUICK) as server:
        client = client_of(server)
        file_id = upload(client, rows(20))
        while time.monotonic() < end_at:
            while len(unfinished(client, accepted)) < JOBS_AT_ONCE:
                accepted.append(create(client, file_id, steps=rng.randint(5, 60), training={"save_every": 5}))
            time.sleep(rng.uniform(0.5, 4))
            disturb(server, client, rng, accepted)
        for job_id in unfinished(client, accepted):
            attempt(client.fine_tuning.jobs.resume, job_id)
        wait_until(lambda: not unfinished(client, accepted), timeout_s=300)
        check(server, client, accepted)


def unfinished(client: OpenAI, accepted: list[str]) -> list[str]:
    return [job_id for job_id in accepted if client.fine_tuning.jobs.retrieve(job_id).status not in FINAL]


def disturb(server: AttuneUp, client: OpenAI, rng: random.Random, accepted: list[str]) -> None:
    """Kill a part, or have a user change their mind."""
    if rng.random() < 0.6:
        words = rng.choice(PARTS)
        victims = [child for child in server.children() if set(words) <= set(words_of(child))]
        if victims:
            print(f"kill -9 {' '.join(words)}")
            victims[0].send_signal(signal.SIGKILL)
        return
    job_id, jobs = rng.choice(accepted), client.fine_tuning.jobs
    attempt(rng.choice([jobs.pause, jobs.resume, jobs.resume, jobs.cancel]), job_id)


def attempt(act: object, job_id: str) -> None:
    """A refusal is an answer too."""
    try:
        act(job_id)  # type: ignore[operator]
    except APIError as error:
        if getattr(error, "status_code", 400) != 400:
            raise


def check(server: AttuneUp, client: OpenAI, accepted: list[str]) -> None:
    """None vanished, each ended once, a success has exactly one whole model, a failure its reason, a cancel nothing."""
    with opened(Settings(data_dir=server.data)) as context, context.database.read() as session:
        jobs = {job.id: job for job in session.scalars(select(Job))}
        published = list(session.scalars(select(Model.job_id)))
    assert jobs.keys() == set(accepted)
    assert len(published) == len(set(published))
    succeeded = {job.id for job in jobs.values() if job.status == "succeeded"}
    assert set(published) == succeeded
    assert succeeded, "some must get through"
    for job_id in succeeded:
        assert adapter_files(client, job_id)["adapter_model.safetensors"]
    for job in jobs.values():
        assert (job.status == "failed") == bool(job.error), (job.id, job.status, job.error)
    assert not [child for child in server.children() if child.status() == psutil.STATUS_ZOMBIE]
    print(f"{len(jobs)} jobs, {len(succeeded)} succeeded")
