"""The results of the evals of a job, on its model and its checkpoints."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from api.context import Context
from api.records import eval_runs
from api.records.evals import Eval
from api.records.jobs import Job
from tests.factories import a_model, a_project, an_eval


def evaluated(context: Context, runs: list[tuple[str, int]], evals: int = 1) -> Job:
    """A job whose evals have these runs (status, number of passed items of 4) on its model, and then on its
    checkpoint."""
    project = a_project(context.database)
    model, eval_ids = a_model(context, project), [an_eval(context, project) for _ in range(evals)]
    models, begun = [model, f"{model}:ckpt-step-5"], list[dict[str, str]]()
    source: dict[str, Any] = {"type": "completions", "source": {"type": "file_id", "id": "file-rows"}}
    with context.database.write() as session:
        job = session.scalars(select(Job).where(Job.fine_tuned_model == model)).one()
        for number, (status, passed) in enumerate(runs):
            row = session.get_one(Eval, eval_ids[number // 2])
            run = eval_runs.add(session, row, "", source | {"model": models[number % 2]}, name="", pairs=None)
            run.status, run.passed, run.total = status, passed, 4
            begun.append({"eval_id": row.id, "run_id": run.id, "model": models[number % 2]})
        job.eval_runs = begun
    return job


def results(client: TestClient, job: Job) -> list[tuple[float | None, bool]]:
    shown = client.get(f"/v1/fine_tuning/jobs/{job.id}").json()
    assert client.get("/v1/fine_tuning/jobs").json()["data"] == [shown]
    return [(each["score"], each["best"]) for each in shown["evals"]]


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([("completed", 3), ("completed", 4)], [(0.75, False), (1.0, True)]),
        ([("completed", 3), ("completed", 3)], [(0.75, True), (0.75, False)]),  # equal: the job's model
        ([("completed", 3), ("in_progress", 4)], [(0.75, False), (None, False)]),
        ([("failed", 0), ("completed", 0)], [(None, False), (0.0, True)]),
        ([("canceled", 2), ("deleting", 4)], [(None, False), (None, False)]),
    ],
)
def test_the_best_of_a_jobs_models_is_known_once_all_runs_have_ended(
    client: TestClient, served: Context, runs: list[tuple[str, int]], expected: list[tuple[float | None, bool]]
) -> None:
    job = evaluated(served, runs)
    assert results(client, job) == expected
    checkpoint = client.get(f"/v1/fine_tuning/jobs/{job.id}/checkpoints").json()["data"][0]
    assert [(each["score"], each["best"]) for each in checkpoint["evals"]] == expected[1:]
    assert checkpoint["evals"][0]["model"] == checkpoint["fine_tuned_model_checkpoint"]


def test_each_eval_has_a_best_model_of_its_own(client: TestClient, served: Context) -> None:
    runs = [("completed", 1), ("completed", 0), ("completed", 2), ("completed", 3)]
    assert results(client, evaluated(served, runs, evals=2)) == [(0.25, True), (0, False), (0.5, False), (0.75, True)]


def test_evals_that_have_not_begun_have_no_score(client: TestClient, served: Context) -> None:
    job = evaluated(served, [("queued", 0)])
    with served.database.write() as session:
        row = session.get_one(Job, job.id)
        row.recipe, row.eval_runs = row.recipe | {"evals": [{"eval_id": "eval_a"}]}, None
    assert results(client, job) == [(None, False)]
