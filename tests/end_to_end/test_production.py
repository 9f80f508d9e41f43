"""PostgreSQL, Valkey and S3, an API and two workers, each started on its own, with the variables of compose's file."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from sqlalchemy import select

from api.context import Context
from api.records.job_queue import Attempt
from api.records.jobs import Job
from api.records.models import Model
from api.services import base_models, keys
from api.settings import Settings
from api.spec.lifecycle import JobStatus, Stage
from tests.conftest import opened
from tests.end_to_end.jobs import create, rows, upload, wait_until
from tests.services import AttunePart, Postgres, SeaweedS3, Valkey
from tests.services.process import answers, free_ports
from tests.test_deployment import OURS

JOBS = {"many": 3, "few": 2, "some": 2}


@pytest.fixture
def environment(
    postgres: Postgres, valkey: Valkey, s3: SeaweedS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The environment that docker-compose.yml gives its services, with the tests' own servers behind it."""
    valkey.flush()
    env = {
        "ATTUNE_DATABASE_URL": postgres.url(postgres.database()),
        "ATTUNE_BROKER_URL": valkey.url,
        "ATTUNE_STORAGE_URL": f"s3://attune/{tmp_path.name}",
        **{name: value for name, value in s3.env.items() if name != "AWS_ALLOW_HTTP"},
        **dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1"),
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert all(service["environment"].keys() == env.keys() for name, service in OURS.items() if name != "objects")
    return env


@pytest.fixture
def parts(environment: dict[str, str], tmp_path: Path) -> Iterator[dict[str, AttunePart]]:
    """The commands by name, each with a data folder of its own, as on a machine of its own. None is started."""
    own: dict[str, dict[str, str]] = {
        "migrate": {},
        "api": {"ATTUNE_PORT": str(free_ports(1)[0])},
        "worker": {},
        "another worker": {},
    }
    with ExitStack() as stack:
        found = {}
        for name, variables in own.items():
            folder = tmp_path / name
            folder.mkdir()
            env = {**environment, **variables, "ATTUNE_DATA_DIR": str(folder)}
            # What is tested of two workers is their training. Other stages would only be imported once more.
            stage = ["--stage", "train"] if name == "another worker" else []
            found[name] = AttunePart(folder, name.split()[-1], *stage, env=env)
            stack.callback(found[name].stop)
        yield found


def unfinished(context: Context) -> int:
    final = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)
    with context.database.read() as session:
        return len(session.scalars(select(Job.id).where(Job.status.not_in(final))).all())


def test_two_workers_run_each_job_once_and_each_project_in_turn_and_answer(
    parts: dict[str, AttunePart], tiny_base: Path, tmp_path: Path
) -> None:
    parts["migrate"].start()
    parts["migrate"].finish()
    address = f"http://127.0.0.1:{parts['api'].env['ATTUNE_PORT']}"
    parts["api"].start(ready=lambda: answers(f"{address}/readyz"))
    with opened(Settings(data_dir=tmp_path)) as context:
        base_models.register(context, "tiny", tiny_base)
        clients = {project: _client(context, project, address) for project in JOBS}
        for project, client in clients.items():
            file_id = upload(client, rows(12))
            for _ in range(JOBS[project]):
                create(client, file_id, steps=4)
        for name in ("worker", "another worker"):
            parts[name].start()
        wait_until(lambda: unfinished(context) == 0, timeout_s=280)
        check_attempts(context)
    client = clients["few"]
    tuned = next(job.fine_tuned_model for job in client.fine_tuning.jobs.list())
    message: Any = {"role": "user", "content": "1+1"}
    assert client.chat.completions.create(model=str(tuned), messages=[message], max_tokens=2).choices


def _client(context: Context, project: str, address: str) -> OpenAI:
    _, key = keys.create(context, project=project, name="test", scope="write")
    return OpenAI(base_url=f"{address}/v1", api_key=key)


def check_attempts(context: Context) -> None:
    with context.database.read() as session:
        jobs = {job.id: job for job in session.scalars(select(Job))}
        attempts = session.scalars(
            select(Attempt).where(Attempt.stage == Stage.TRAIN).order_by(Attempt.started_at)
        ).all()
        published = session.scalars(select(Model.job_id)).all()
    assert {job.status for job in jobs.values()} == {JobStatus.SUCCEEDED}
    assert Counter(published) == dict.fromkeys(jobs, 1)
    assert Counter(attempt.job_id for attempt in attempts) == dict.fromkeys(jobs, 1), "each ran exactly once"
    assert len({attempt.owner for attempt in attempts}) == 2, "both workers took part"
    check_turns([jobs[attempt.job_id].project_id for attempt in attempts])


def check_turns(starts: list[str]) -> None:
    """While all three have jobs in the queue, no project is more than one start ahead of another."""
    left, done = Counter(starts), Counter(dict.fromkeys(starts, 0))
    for project in starts:
        all_wait = all(left.values())
        done[project] += 1
        left[project] -= 1
        if all_wait:
            assert max(done.values()) - min(done.values()) <= 1, starts
