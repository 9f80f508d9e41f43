"""What is said of a model when it is published, and the evals that begin then."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from api.context import Context
from api.infra.storage import StorageUnavailable
from api.records import evals, events, models, permissions
from api.records.base import db_now
from api.records.eval_runs import EvalRun
from api.records.evals import Eval
from api.records.job_queue import Claim
from api.records.jobs import Job, StaleFence
from api.records.models import Checkpoint, Model
from api.spec.lifecycle import JobStatus, Stage
from tests.conftest import EMBEDDED
from tests.factories import a_job, a_model, a_project, an_eval, the_job
from worker.shared.reports import CheckpointReport, DoneReport
from worker.supervisor.attempt import AttemptContext
from worker.supervisor.estimates import Measured
from worker.supervisor.lease import Heartbeat
from worker.supervisor.outputs import begin_evals, best_step_message, publish, store_checkpoint, store_state

SETTINGS = EMBEDDED


@pytest.mark.parametrize(
    ("best", "keep", "told"), [(4, True, True), (6, True, False), (4, False, False), (None, True, False)]
)
def test_an_event_says_which_step_is_published_where_it_is_not_the_last(
    best: int | None, keep: bool, told: bool
) -> None:
    report = DoneReport(step=6, best_step=best, path="out/model", trained_tokens=1)
    message = best_step_message(Job(resolved={"keep_best": keep}), report)
    assert (message is not None) is told
    assert message is None or "step 4 of 6" in message


def test_the_evals_of_a_job_are_locked_in_one_order(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another job may name them in the opposite order, at the same time."""
    project, lock, locked = a_project(context.database), evals.lock, list[str]()
    named = sorted((an_eval(context, project), an_eval(context, project)), reverse=True)

    def recorded(session: Session, project_id: str, eval_id: str) -> Eval | None:
        locked.append(eval_id)
        return lock(session, project_id, eval_id)

    monkeypatch.setattr(evals, "lock", recorded)
    ask = {"type": "item_reference", "item_reference": "item.messages"}
    rows = {"type": "file_id", "id": "file-rows"}
    wanted = [{"eval_id": eval_id, "source": rows, "input_messages": ask} for eval_id in named]
    job_id = a_job(
        context.database, project, recipe={"method": {"type": "supervised"}, "evals": wanted}, key_id="key_a"
    )
    with context.database.write() as session:
        begun = begin_evals(session, session.get_one(Job, job_id))
    assert [link["eval_id"] for link in begun or ()] == named
    assert locked == named[::-1]


def test_a_published_model_is_evaluated_by_the_evals_that_are_left(context: Context) -> None:
    project = a_project(context.database)
    kept, deleted = an_eval(context, project), an_eval(context, project)
    ask = {"type": "template", "template": [{"role": "user", "content": "{{ item.q }}"}]}
    rows = {"type": "file_id", "id": "file-rows"}
    wanted: list[dict[str, Any]] = [
        {"eval_id": eval_id, "source": rows, "input_messages": ask, "sampling_params": {"temperature": 0}}
        for eval_id in (kept, deleted)
    ]
    wanted[0]["checkpoints"] = True
    job_id = a_job(
        context.database, project, recipe={"method": {"type": "supervised"}, "evals": wanted}, key_id="key_a"
    )
    with context.database.write() as session:
        evals.remove(session, deleted)
        job = session.get_one(Job, job_id)
        facts = {"project_id": project, "job_id": job_id, "metrics": {}, "artifacts": [], "created_at": db_now()}
        session.add(Checkpoint(id="ftckpt_5", model_id=f"{job.model_id}:5", step=5, **facts))
        session.flush()
        begun = begin_evals(session, job)
    assert begun is not None
    assert [(link["eval_id"], link["model"]) for link in begun] == [(kept, job.model_id), (kept, f"{job.model_id}:5")]
    link = begun[0]
    with context.database.read() as session:
        run = session.get_one(EvalRun, link["run_id"])
        told = [event.message for event in events.page(session, job_id, after=None, limit=9).data]
    assert (run.model, run.status, run.pairs) == (job.model_id, "queued", {"fine_tuning_job": job_id})
    assert run.data_source == {
        "type": "completions",
        "model": job.model_id,
        "source": rows,
        "input_messages": ask,
        "sampling_params": {"temperature": 0},
    }
    assert told[-1] == f"Evaluation of {job.model_id} started: {run.id}", "the oldest"
    assert told[0] == f"The eval {deleted} was deleted, so it is not run"


def an_attempt(context: Context, job_id: str, folder: Path, fence: int = 0) -> AttemptContext:
    job = the_job(context.database, job_id)
    node: Any = SimpleNamespace(context=context)
    claim = Claim(job_id, job.project_id, Stage.TRAIN, fence)
    return AttemptContext(node, claim, job, folder, Heartbeat(context, claim))


@pytest.mark.parametrize("use", ["none", "adapter", "permission"])
def test_a_running_job_keeps_checkpoints_that_something_names(context: Context, tmp_path: Path, use: str) -> None:
    project, other = a_project(context.database), a_project(context.database, "other")
    job_id = a_job(context.database, project, JobStatus.RUNNING)
    model_id = the_job(context.database, job_id).model_id
    shared = {"project_id": project, "metrics": {}, "artifacts": [], "created_at": db_now()}
    with context.database.write() as session:
        for step in range(1, 5):
            checkpoint = f"{model_id}:ckpt-step-{step}"
            session.add(Checkpoint(id=f"ftckpt_{step}", job_id=job_id, model_id=checkpoint, step=step, **shared))
    surplus = f"{model_id}:ckpt-step-2"  # step 1 counts as the best
    if use == "adapter":
        adapter = a_model(context, project)
        with context.database.write() as session:
            session.execute(update(Job).where(Job.fine_tuned_model == adapter).values(base_weights=surplus))
    if use == "permission":
        with context.database.write() as session:
            permissions.grant(session, project, surplus, other)
    (tmp_path / "manifest.json").write_text(json.dumps({"job": job_id, "files": []}))
    report = CheckpointReport(step=5, path=".", metrics={})
    store_checkpoint(an_attempt(context, job_id, tmp_path), report, tmp_path)
    with context.database.read() as session:
        steps = [checkpoint.step for checkpoint in models.checkpoints_of(session, job_id)]
    assert steps == ([1, 3, 4, 5] if use == "none" else [1, 2, 3, 4, 5])


def test_a_state_is_stored_once_though_the_storage_refuses_to_delete_an_older_one(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket may forbid deletions for years."""
    job_id = a_job(context.database, a_project(context.database), JobStatus.RUNNING)
    (tmp_path / "manifest.json").write_text(json.dumps({"files": []}))
    refused: list[str] = []

    def refuse(prefix: str) -> None:
        refused.append(prefix)
        raise StorageUnavailable(prefix)

    monkeypatch.setattr(context.storage, "delete_prefix", refuse)
    for step in (1, 2, 3):
        store_state(an_attempt(context, job_id, tmp_path, the_job(context.database, job_id).fence), step, tmp_path)
    state = the_job(context.database, job_id).state
    assert state is not None
    assert (state["step"], refused) == (3, [f"states/{job_id}/0/000001"])


def test_an_attempt_that_lost_its_job_learns_so_though_another_has_published(context: Context, tmp_path: Path) -> None:
    """Its worker would count as broken if the insert of the same model failed instead."""
    model_id = a_model(context, a_project(context.database))
    with context.database.read() as session:
        published = session.get_one(Model, model_id)
    (tmp_path / "manifest.json").write_text(json.dumps({"job": published.job_id, "files": []}))
    attempt = an_attempt(context, published.job_id, tmp_path, fence=-1)
    report = DoneReport(step=1, path=".", trained_tokens=1)
    with pytest.raises(StaleFence):
        publish(attempt, report, tmp_path, Measured(seconds=1.0, training_s=1.0))
