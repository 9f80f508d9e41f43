"""Why a job waits and when it will run, as its object shows it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event, update

from api.context import Context
from api.infra.latest import Latest
from api.records import job_queue, workers
from api.records.base import db_now
from api.records.dependencies import Dependency
from api.records.jobs import Job
from api.spec.lifecycle import JobStatus, Stage
from tests.conftest import EMBEDDED
from tests.factories import a_job, a_project

SETTINGS = EMBEDDED


@pytest.fixture(autouse=True)
def always_fresh(served: Context) -> None:
    object.__setattr__(served, "queue_board", Latest(keep_s=0.0))


def register(context: Context, owner: str = "w:train-0:1", stage: Stage = Stage.TRAIN, **facts: Any) -> None:
    with context.database.write() as session:
        workers.register(session, owner=owner, stage=stage, **facts)


def queue_of(client: TestClient, job_id: str) -> dict[str, Any]:
    found = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()["queue"]
    assert found is not None
    return dict(found)


def claim(context: Context, owner: str = "w:train-0:1", **values: object) -> str:
    with context.database.write() as session:
        claimed = job_queue.claim(session, Stage.TRAIN, owner=owner, lease_s=60, gpus=0)
        assert claimed is not None
        session.execute(update(Job).where(Job.id == claimed.job_id).values(estimated_finish=db_now() + 100, **values))
    return claimed.job_id


def test_positions_are_the_order_in_which_workers_claim(client: TestClient, served: Context) -> None:
    register(served)
    mine, other = a_project(served.database), a_project(served.database, "other")
    a_job(served.database, other, JobStatus.SUCCEEDED, work=5.0, started_at=time.time())
    ids = [a_job(served.database, other, work=2.0) for _ in range(3)]
    ids += [a_job(served.database, mine, priority=priority, work=3.0) for priority in (0, 1, 0, 0)]
    positions = {job["id"]: job["queue"] for job in client.get("/v1/fine_tuning/jobs").json()["data"]}
    assert all(each["reason"] == f"{each['position'] - 1} jobs before it" for each in list(positions.values())[:1])
    claimed = [claim(served) for _ in ids]
    assert [positions[job_id]["position"] for job_id in claimed if job_id in positions] == [
        number for number, job_id in enumerate(claimed, 1) if job_id in positions
    ]
    assert len(positions) == 4


def test_positions_of_unprepared_jobs_are_the_turns_of_their_projects(client: TestClient, served: Context) -> None:
    register(served, "w:prepare-0:1", Stage.PREPARE, slots=5)
    names = ("other", "default", "other", "other", "default")
    for name in names:
        a_job(served.database, a_project(served.database, name), JobStatus.VALIDATING_FILES)
    positions = {job["id"]: job["queue"]["position"] for job in client.get("/v1/fine_tuning/jobs").json()["data"]}
    with served.database.write() as session:
        claims = [job_queue.claim(session, Stage.PREPARE, owner="w", lease_s=60, gpus=0) for _ in names]
    order = {claim.job_id: number for number, claim in enumerate(claims, 1) if claim is not None}
    assert positions == {job_id: order[job_id] for job_id in positions}
    assert len(positions) == 2


def test_start_and_finish_come_from_the_jobs_before_it(client: TestClient, served: Context) -> None:
    register(served, observed={"jobs": []})
    project = a_project(served.database)
    running, first, second = (a_job(served.database, project, expected_s=40.0) for _ in range(3))
    assert queue_of(client, running)["reason"] == "next: a free worker starts it in a moment"
    assert claim(served) == running
    assert queue_of(client, first)["reason"] == "next: the only slot is busy"
    found, now = queue_of(client, second), time.time()
    assert (found["position"], found["reason"]) == (2, "1 job before it")
    start, finish = found["expected_start"], found["expected_finish"]
    ranges = [start[end] - now for end in ("earliest", "latest")]
    assert ranges == [pytest.approx(98, abs=20), pytest.approx(224, abs=40)], "0.7 and 1.6 of 100 s and 40 s"
    assert [finish["earliest"] - start["earliest"], finish["latest"] - start["latest"]] == [28, 64]
    shown = client.get(f"/v1/fine_tuning/jobs/{running}").json()
    assert shown["queue"] is None
    assert shown["expected_finish"]["earliest"] < shown["estimated_finish"] < shown["expected_finish"]["latest"]


def test_steps_of_a_saved_state_take_no_time_again(client: TestClient, served: Context) -> None:
    register(served, observed={"jobs": []})
    project, state = a_project(served.database), {"step": 90, "prefix": "states/1"}
    a_job(served.database, project, expected_s=1000.0, state=state, resolved={"total_steps": 100})
    start = queue_of(client, a_job(served.database, project, expected_s=40.0))["expected_start"]
    assert start["latest"] - time.time() == pytest.approx(160, abs=20), "1.6 of a tenth of 1,000 s"


@pytest.mark.parametrize(
    ("measured", "step", "factors"), [(False, 0, (0.3, 4.0)), (False, 1, (0.7, 1.6)), (True, 0, (0.7, 1.6))]
)
def test_the_end_of_a_running_job_is_a_guess_until_something_was_measured(
    client: TestClient, served: Context, measured: bool, step: int, factors: tuple[float, float]
) -> None:
    register(served)
    project = a_project(served.database)
    running, waits = (a_job(served.database, project, expected_s=40.0) for _ in range(2))
    claim(served, estimate={"predicted": {"measured": measured}}, progress={"step": step})
    now, expected = time.time(), [pytest.approx(100 * factor, abs=20) for factor in factors]
    finish = client.get(f"/v1/fine_tuning/jobs/{running}").json()["expected_finish"]
    start = queue_of(client, waits)["expected_start"]
    for found in (finish, start):
        assert [found[end] - now for end in ("earliest", "latest")] == expected


def test_a_running_job_that_exceeds_its_estimate_still_ends_in_the_future(client: TestClient, served: Context) -> None:
    register(served)
    job_id = a_job(served.database, a_project(served.database))
    claim(served)
    with served.database.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(estimated_finish=db_now() - 90))
    shown = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()
    assert shown["estimated_finish"] > time.time()


def test_each_obstacle_has_its_reason(client: TestClient, served: Context) -> None:
    project = a_project(served.database)
    unprepared = a_job(served.database, project, JobStatus.VALIDATING_FILES)
    plain, with_gpu = a_job(served.database, project), a_job(served.database, project, gpus=1)
    start = "the operator has to start one (`attune up`, or `attune worker --stage prepare`)"
    nothing = dict.fromkeys(("position", "expected_start", "expected_finish"))
    assert queue_of(client, unprepared) == {**nothing, "reason": f"no live worker prepares files: {start}"}
    assert queue_of(client, plain)["reason"].startswith("no live worker trains")
    register(served)
    assert queue_of(client, with_gpu)["reason"] == "needs 1 GPU; the only worker has none"
    register(served, "w:train-1:2")
    assert queue_of(client, with_gpu)["reason"] == "needs 1 GPU; both workers have none"
    register(served, "w:train-2:3", gpus=1, held="The worker's disk is full")
    assert queue_of(client, with_gpu)["reason"] == "needs 1 GPU; every worker that has one is paused"
    with served.database.write() as session:
        session.execute(update(Job).where(Job.id == plain).values(run_after=db_now() + 30))
    delayed = queue_of(client, plain)
    assert delayed["reason"] == "it is retried after a fault, which its events describe"
    assert 0 < delayed["expected_start"]["earliest"] - time.time() <= 30
    register(served, "w:prepare-0:4", Stage.PREPARE, held="The worker's disk is full")
    reason = "the only worker that prepares files is paused: The worker's disk is full"
    assert queue_of(client, unprepared)["reason"] == reason


def test_a_stage_names_the_stage_that_it_waits_for(client: TestClient, served: Context) -> None:
    register(served)
    project = a_project(served.database)
    first = a_job(served.database, project, pipeline_id="pl", pipeline_stage="sft")
    second = a_job(served.database, project, pipeline_id="pl", pipeline_stage="dpo")
    with served.database.write() as session:
        session.add(Dependency(job_id=second, needs_job_id=first, stage=Stage.TRAIN))
    assert queue_of(client, second)["reason"] == "waits for the stage 'sft' of its pipeline"


def test_an_unprepared_job_starts_after_its_preparation(client: TestClient, served: Context) -> None:
    register(served)
    register(served, "w:prepare-0:1", Stage.PREPARE)
    project = a_project(served.database)
    first, second = (a_job(served.database, project, JobStatus.VALIDATING_FILES) for _ in range(2))
    found = queue_of(client, first)
    assert (found["position"], found["expected_finish"]) == (1, None)
    start = found["expected_start"]
    assert time.time() - 20 < start["earliest"] < start["latest"] < time.time() + 30
    assert queue_of(client, second)["expected_start"]["latest"] is None


def test_a_job_whose_worker_was_lost_says_so(client: TestClient, served: Context) -> None:
    register(served)
    job_id = a_job(served.database, a_project(served.database))
    claim(served)
    with served.database.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_until=db_now() - 60))
    reason = "its worker no longer reports: another one takes the job over within a minute"
    assert queue_of(client, job_id)["reason"] == reason


@pytest.mark.parametrize("status", [JobStatus.PAUSED, JobStatus.SUCCEEDED, JobStatus.CANCELLED])
def test_other_jobs_do_not_wait(client: TestClient, served: Context, status: JobStatus) -> None:
    job_id = a_job(served.database, a_project(served.database), status)
    shown = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()
    assert (shown["queue"], shown["expected_finish"]) == (None, None)


@contextmanager
def queries(context: Context) -> Iterator[list[str]]:
    """The queries of the block. Another thread may write the use of the key meanwhile."""
    seen: list[str] = []

    def note(*arguments: Any) -> None:
        if arguments[2].startswith("SELECT"):
            seen.append(arguments[2])

    event.listen(context.database.engine, "before_cursor_execute", note)
    yield seen
    event.remove(context.database.engine, "before_cursor_execute", note)


def test_a_list_of_waiting_jobs_costs_as_many_queries_as_one(client: TestClient, served: Context) -> None:
    register(served)
    project = a_project(served.database)
    job_id = a_job(served.database, project)
    with queries(served) as for_one:
        client.get("/v1/fine_tuning/jobs")
    for _ in range(30):
        a_job(served.database, project)
    with queries(served) as for_many:
        client.get("/v1/fine_tuning/jobs", params={"limit": 100})
    assert len(for_many) <= len(for_one) + 1
    object.__setattr__(served, "queue_board", Latest(keep_s=60.0))
    queue_of(client, job_id)
    with queries(served) as again:
        client.get("/v1/fine_tuning/jobs", params={"limit": 100})
    assert len(again) < len(for_one) - 4, "the last reading is used again"
