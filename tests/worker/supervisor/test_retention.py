"""What is older than the settings allow is deleted, and never what an unfinished job needs."""

from typing import Any

import pytest
from sqlalchemy import func, select, update

from api.context import Context
from api.records import arrays, eval_items, eval_runs, events, judgements, permissions, webhook_deliveries
from api.records.base import db_now
from api.records.batches import Batch
from api.records.eval_runs import EvalRun
from api.records.evals import Eval
from api.records.events import Event
from api.records.files import File
from api.records.jobs import Job
from api.records.judgements import StoredJudgement
from api.records.models import Checkpoint, Model
from api.records.webhook_deliveries import Delivery
from api.services import webhooks
from api.spec.batch import BatchStatus
from api.spec.evals.status import RunStatus
from api.spec.lifecycle import JobStatus
from tests.factories import a_batch, a_caller, a_file, a_job, a_model, a_project, an_eval, the_job
from worker.supervisor.retention import DAY_S, each_interval, each_sweep

KEEP = {
    f"keep_{kind}_days": 0.0
    for kind in (
        "files",
        "checkpoints",
        "arrays",
        "logs",
        "events",
        "batches",
        "eval_runs",
        "deliveries",
        "judgements",
    )
}


def keep(context: Context, **days: float) -> Context:
    """The context with these settings; what they do not name is kept forever."""
    given = {f"keep_{kind}_days": value for kind, value in days.items()}
    settings = context.settings.model_copy(update=KEEP | given)
    return Context(**{**vars(context), "settings": settings})


def delete_old(context: Context) -> None:
    for task in each_interval(context):
        task()


def delete_expired(context: Context) -> None:
    for task in each_sweep(context):
        task()


def age(context: Context, row: Any, column: str, days: float) -> None:
    with context.database.write() as session:
        session.execute(update(row).values({column: db_now() - days * DAY_S}))


def count(context: Context, row: Any) -> int:
    with context.database.read() as session:
        return session.scalar(select(func.count()).select_from(row)) or 0


def an_ended_job(context: Context, project: str, days_ago: float) -> str:
    job_id = a_job(context.database, project, JobStatus.SUCCEEDED)
    with context.database.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(finished_at=db_now() - days_ago * DAY_S))
        events.add_event(session, job_id, "A message")
    return job_id


def test_by_default_files_checkpoints_and_events_are_kept(context: Context) -> None:
    project = a_project(context.database)
    a_model(context, project)
    a_file(context, project)
    an_ended_job(context, project, 5000)
    for row in (File, Checkpoint, Model):
        age(context, row, "created_at", 5000)
    age(context, Job, "finished_at", 5000)
    delete_old(context)
    delete_expired(context)
    assert (count(context, File), count(context, Checkpoint), count(context, Event)) == (1, 1, 1)


def test_old_files_go_once_no_unfinished_job_needs_them_and_results_stay(context: Context) -> None:
    project = a_project(context.database)
    needed, old, result = (
        a_file(context, project),
        a_file(context, project),
        a_file(context, project, b"r", "fine-tune-results"),
    )
    job_id = a_job(context.database, project)
    with context.database.write() as session:
        session.get_one(Job, job_id).training_file = needed
    age(context, File, "created_at", 3)
    new = a_file(context, project)
    for _ in range(2):
        delete_old(keep(context, files=2))
        delete_expired(context)
    with context.database.read() as session:
        assert set(session.scalars(select(File.id))) == {needed, result, new}
    assert not context.storage.exists(f"files/{project}/{old}")
    assert context.storage.exists(f"files/{project}/{needed}")


def an_array(context: Context, project: str, key: str) -> str:
    with context.database.write() as session:
        arrays.upsert(session, key=key, project_id=project, bytes_total=1, sha256="0", report={})
    context.storage.write_bytes(f"arrays/{project}/{key}.safetensors", b"x")
    return key


def test_old_arrays_go_unless_an_unfinished_job_needs_them(context: Context) -> None:
    project = a_project(context.database)
    needed, old = an_array(context, project, "needed"), an_array(context, project, "old")
    a_job(context.database, project, JobStatus.PAUSED, arrays={"train": needed})
    a_job(context.database, project, JobStatus.SUCCEEDED, arrays={"train": old})
    age(context, arrays.Arrays, "created_at", 3)
    new = an_array(context, project, "new")
    delete_old(keep(context, arrays=2))
    stored = {name for name in (needed, old, new) if context.storage.exists(f"arrays/{project}/{name}.safetensors")}
    assert stored == {needed, new}
    assert count(context, arrays.Arrays) == 2


@pytest.mark.parametrize("use", ["none", "job", "adapter", "permission"])
def test_old_checkpoints_go_unless_something_names_them(context: Context, use: str) -> None:
    project, other = a_project(context.database), a_project(context.database, "other")
    model_id = a_model(context, project)
    checkpoint = f"{model_id}:ckpt-step-5"
    age(context, Job, "finished_at", 3)
    if use == "job":
        a_job(context.database, project, parent_model=checkpoint)
    if use == "adapter":
        with context.database.write() as session:
            adapter = session.scalars(select(Model)).one().job_id
            session.get_one(Job, adapter).base_weights = checkpoint
    if use == "permission":
        with context.database.write() as session:
            permissions.grant(session, project, checkpoint, other)
    delete_old(keep(context, checkpoints=2))
    assert count(context, Checkpoint) == (0 if use == "none" else 1)
    assert count(context, Model) == 1
    with context.database.read() as session:
        kept = [artifact["key"] for model in session.scalars(select(Model)) for artifact in model.artifacts]
    assert use == "none" or all(map(context.storage.exists, kept))


def test_old_events_of_ended_jobs_go(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "BATCH", 2)
    project = a_project(context.database)
    old, new = an_ended_job(context, project, 3), an_ended_job(context, project, 1)
    running = a_job(context.database, project, JobStatus.RUNNING)
    with context.database.write() as session:
        for number in range(4):
            events.add_event(session, old, f"Message {number}")
        events.add_event(session, running, "Old, but its job runs")
    age(context, Event, "created_at", 10)
    delete_old(keep(context, events=2))
    with context.database.read() as session:
        assert set(session.scalars(select(Event.job_id))) == {new, running}
    assert the_job(context.database, old).status == JobStatus.SUCCEEDED


def test_old_deliveries_go_and_pending_ones_stay(context: Context) -> None:
    caller = a_caller(context.database)
    webhooks.create(context, caller, name="w", url="https://hooks.example/x", event_types=["fine_tuning.job.succeeded"])
    with context.database.write() as session:
        for job_id in ("one", "two"):
            webhook_deliveries.enqueue(session, caller.project_id, job_id, "fine_tuning.job.succeeded")
        session.execute(update(Delivery).where(Delivery.object_id == "one").values(ended_at=db_now() - 3 * DAY_S))
    age(context, Delivery, "created_at", 100)
    delete_old(keep(context, deliveries=2))
    with context.database.read() as session:
        assert list(session.scalars(select(Delivery.object_id))) == ["two"]


def test_old_batches_go_and_unfinished_ones_stay(context: Context) -> None:
    project = a_project(context.database)
    old, new, unfinished = (
        a_batch(context, project, status)
        for status in (BatchStatus.EXPIRED, BatchStatus.COMPLETED, BatchStatus.IN_PROGRESS)
    )
    age(context, Batch, "in_progress_at", 100)
    with context.database.write() as session:
        session.execute(update(Batch).where(Batch.id == old).values(expired_at=db_now() - 3 * DAY_S))
    delete_old(keep(context, batches=2))
    with context.database.read() as session:
        assert set(session.scalars(select(Batch.id))) == {new, unfinished}


def test_old_runs_of_evals_go_and_unfinished_ones_stay(context: Context) -> None:
    eval_id = an_eval(context, a_project(context.database))
    with context.database.write() as session:
        row = session.get_one(Eval, eval_id)
        source = {"type": "jsonl", "source": {}}
        ids = [eval_runs.add(session, row, "key", source, name=name, pairs=None).id for name in ("old", "new", "begun")]
        for run_id in ids[:2]:
            eval_runs.transition(session, eval_items.QUEUE.lock(session, run_id), RunStatus.CANCELED)
        old = EvalRun.id.in_((ids[0], ids[2]))
        session.execute(update(EvalRun).where(old).values(created_at=db_now() - 3 * DAY_S))
    delete_old(keep(context, eval_runs=2))
    with context.database.read() as session:
        assert [session.get_one(EvalRun, run_id).status for run_id in ids] == ["deleting", "canceled", "queued"]


def test_old_judgements_go_and_others_stay(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judgements, "BATCH", 2)
    project = a_project(context.database)
    facts: Any = {"text": "{}", "model": "m", "prompt_tokens": 1, "completion_tokens": 1}
    with context.database.write() as session:
        for number in range(6):
            judgements.add(session, project, f"{number}", **facts)
    age(context, StoredJudgement, "created_at", 20)
    with context.database.write() as session:
        judgements.add(session, project, "new", **facts)
    delete_old(keep(context, judgements=0))
    assert count(context, StoredJudgement) == 7
    delete_old(keep(context, judgements=10))
    assert count(context, StoredJudgement) == 1
