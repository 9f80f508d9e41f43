"""Rows for tests, as the services make them."""

from itertools import count
from typing import Any

from sqlalchemy import ColumnElement

from api.context import Caller, Context
from api.records import Database, base_models, files, models, projects
from api.records.base import db_now
from api.records.batches import Batch
from api.records.evals import Eval
from api.records.jobs import Job
from api.spec.batch import WINDOW_S, BatchStatus
from api.spec.ids import new_id
from api.spec.job import JobError
from api.spec.lifecycle import JobStatus
from api.spec.recipe import Recipe
from api.spec.resolve import resolve

_number = count()


def _next_now() -> ColumnElement[float]:
    """The database's time, and a microsecond for each row before: SQLite's clock is the same for a whole millisecond,
    in which a fast machine makes several rows."""
    return db_now() + next(_number) * 1e-6


FACTS = {"model_type": "llama", "parameters": 1000, "context_window": 128}


def a_project(database: Database, name: str = "default") -> str:
    with database.write() as session:
        return projects.get_or_create(session, name).id


def a_caller(database: Database, project: str = "default", scope: str = "write") -> Caller:
    return Caller(a_project(database, project), "key_test", scope)


def a_base_model(database: Database, name: str = "tiny", **facts: Any) -> str:
    with database.write() as session:
        if base_models.get(session, name) is None:
            known = FACTS | facts
            session.add(base_models.BaseModelRow(name=name, digest="d", facts=known, artifacts=[], created_at=db_now()))
    return name


def a_file(context: Context, project_id: str, content: bytes = b"{}\n", purpose: str = "fine-tune") -> str:
    file_id = new_id("file-")
    stored = context.storage.write_bytes(f"files/{project_id}/{file_id}", content)
    with context.database.write() as session:
        session.add(
            files.File(
                id=file_id,
                project_id=project_id,
                filename="rows.jsonl",
                purpose=purpose,
                bytes=stored.bytes,
                sha256=stored.sha256,
                storage_key=f"files/{project_id}/{file_id}",
                created_at=_next_now(),
                scan_status="pending" if purpose == "fine-tune" else None,
            )
        )
    return file_id


def a_batch(context: Context, project_id: str, status: BatchStatus, **values: Any) -> str:
    """A batch that no worker takes."""
    fixed = {"id": new_id("batch_"), "project_id": project_id, "key_id": "key_1", "endpoint": "/v1/completions"}
    times = {"created_at": _next_now(), "expires_at": db_now() + WINDOW_S}
    batch = Batch(**fixed, **times, status=status, input_file="file-none", **values)
    with context.database.write() as session:
        session.add(batch)
    return fixed["id"]


def a_job(database: Database, project_id: str, status: JobStatus = JobStatus.QUEUED, **values: Any) -> str:
    """A job row in any state, without its files."""
    recipe = Recipe(model="tiny", training_file="file-none")
    job_id = new_id("ftjob-")
    defaults = {"work": 1.0, "base_model": "tiny", "recipe": recipe.model_dump(mode="json")}
    given: dict[str, Any] = defaults | values
    with database.write() as session:
        session.add(
            Job(
                id=job_id,
                project_id=project_id,
                status=status,
                created_at=_next_now(),
                method=given["recipe"]["method"]["type"],
                training_file="file-none",
                seed=0,
                model_id=f"ft:tiny:attune::{job_id[-8:]}",
                **given,
            )
        )
    return job_id


def the_job(database: Database, job_id: str) -> Job:
    with database.read() as session:
        return session.get_one(Job, job_id)


def a_model(context: Context, project_id: str, contents: dict[str, bytes] | None = None, **recipe: Any) -> str:
    """What a job of this recipe published, by its id, with one checkpoint (step 5) of the same files."""
    asked = Recipe.model_validate({"model": "tiny", "training_file": "file-none"} | recipe)
    base = asked.model
    resolved = resolve(asked, job_id="ftjob-a", seed=0, max_length=8, train_rows=10, validation_rows=0)
    job_id = a_job(
        context.database,
        project_id,
        JobStatus.SUCCEEDED,
        base_model=base,
        recipe=asked.model_dump(mode="json"),
        resolved=resolved.model_dump(mode="json"),
    )
    model_id = f"ft:{base}:attune::{job_id[-8:]}"
    artifacts = []
    for name, content in (contents or {"adapter_config.json": b"{}"}).items():
        key = f"models/{job_id}/1/{name}"
        stored = context.storage.write_bytes(key, content)
        artifacts.append({"name": name, "bytes": stored.bytes, "sha256": stored.sha256, "key": key})
    shared = {"project_id": project_id, "job_id": job_id, "artifacts": artifacts, "created_at": _next_now()}
    with context.database.write() as session:
        session.get_one(Job, job_id).fine_tuned_model = model_id
        session.add(models.Model(id=model_id, base_model=base, **shared))
        checkpoint_id = f"{model_id}:ckpt-step-5"
        session.add(models.Checkpoint(id=new_id("ftckpt_"), model_id=checkpoint_id, step=5, metrics={}, **shared))
    return model_id


def error_of(job: Job) -> JobError:
    """Return the error of a job that has one."""
    assert job.error is not None
    return job.error


def an_eval(context: Context, project: str) -> str:
    row = Eval(
        id=new_id("eval_"),
        project_id=project,
        name="",
        data_source={},
        criteria=[{"name": "a"}],
        created_at=_next_now(),
        updated_at=db_now(),
    )
    with context.database.write() as session:
        session.add(row)
    return row.id
