"""PostgreSQL, Valkey and S3, an API and two workers, each started on its own."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from openai import OpenAI
from sqlalchemy import select

from api.context import Context
from api.records.jobs import Job
from api.records.models import Model
from api.records.queue import Attempt
from api.services import base_models, keys
from api.settings import Settings
from api.spec.lifecycle import JobStatus, Stage
from tests.end_to_end.jobs import create, rows, upload, wait_until
from tests.services.parts import AttuneApi, AttuneWorker

JOBS = {"many": 6, "few": 2, "some": 2}


@pytest.fixture
def production(tmp_path: Path, postgres_url: str, valkey_url: str, s3_url: str, tiny_base: Path) -> Iterator[Context]:
    settings = Settings(
        data_dir=tmp_path / "data", database_url=postgres_url, broker_url=valkey_url, storage_url=s3_url
    )
    context = Context.open(settings)
    base_models.register(context, "tiny", tiny_base)
    yield context
    context.database.dispose()


def started(stack: ExitStack, server: AttuneApi | AttuneWorker) -> None:
    server.folder.mkdir()
    stack.callback(server.stop)
    server.start()


def unfinished(context: Context) -> int:
    final = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)
    with context.database.read() as session:
        return len(session.scalars(select(Job.id).where(Job.status.not_in(final))).all())


def test_two_workers_run_each_job_once_and_each_project_in_turn(production: Context, tmp_path: Path) -> None:
    with ExitStack() as stack:
        api = AttuneApi(tmp_path / "api", production.settings)
        started(stack, api)
        for project, count in JOBS.items():
            _, key = keys.create(production, project=project, name="test", scope="write")
            client = OpenAI(base_url=api.base_url, api_key=key)
            file_id = upload(client, rows(12))
            for _ in range(count):
                create(client, file_id, steps=4)
        for number in (1, 2):
            started(stack, AttuneWorker(tmp_path / f"worker-{number}", production.settings))
        wait_until(lambda: unfinished(production) == 0, timeout_s=280)
    with production.database.read() as session:
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
