from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from api.context import Context
from api.infra import beats
from api.infra.beats import ProcessReport, reporting
from api.records import job_queue, workers
from api.records.base import db_now
from api.records.jobs import Job
from api.records.workers import SEEN_S, Worker
from api.spec.lifecycle import Stage
from tests.conftest import EMBEDDED
from tests.factories import a_job, a_project

SETTINGS = EMBEDDED


def listed(client: TestClient) -> list[dict[str, Any]]:
    return list(client.get("/v1/workers").json()["data"])


def register(context: Context, owner: str, stage: Stage = Stage.TRAIN, **facts: Any) -> None:
    with context.database.write() as session:
        workers.register(session, owner=owner, stage=stage, **facts)


def test_a_worker_shows_its_machine_and_its_own_projects_jobs(
    client: TestClient, other_project: TestClient, served: Context
) -> None:
    register(served, "forge:train-0:ab12", slots=2, gpus=1, device="NVIDIA H200", version="1.2", started_at=5.0)
    job_id = a_job(served.database, a_project(served.database))
    with served.database.write() as session:
        assert job_queue.claim(session, Stage.TRAIN, owner="forge:train-0:ab12", lease_s=60, gpus=1)
    (worker,) = listed(client)
    assert worker["id"] == "forge:train-0:ab12"
    machine = ("host", "stages", "slots", "gpus", "device", "version", "started_at")
    assert [worker[name] for name in machine] == ["forge", ["train"], 2, 1, "NVIDIA H200", "1.2", 5]
    assert (worker["alive"], worker["status"], worker["paused_reason"]) == (True, "busy", None)
    (work,) = worker["busy"]
    assert (work["kind"], work["job_id"], work["since"] > 0) == ("train", job_id, True)
    (hidden,) = listed(other_project)[0]["busy"]
    assert hidden == {**work, "job_id": None}, "a key sees no jobs of other projects"


def test_status_tells_paused_stopped_and_lost_workers_apart(client: TestClient, served: Context) -> None:
    register(served, "a:prepare-0:1", Stage.PREPARE, scanning=True)
    register(served, "b:train-0:2", held="The worker's disk is full")
    register(served, "c:train-0:3")
    register(served, "d:train-0:4")
    with served.database.write() as session:
        workers.record_stop(session, "c:train-0:3")
        late = update(Worker).where(Worker.owner == "d:train-0:4").values(seen_at=db_now() - SEEN_S - 1)
        session.execute(late)
        assert [worker.owner for worker in workers.training(session)] == ["b:train-0:2"]
    shown = [(worker["host"], worker["status"], worker["alive"]) for worker in listed(client)]
    assert shown == [("a", "busy", True), ("b", "paused", True), ("c", "stopped", False), ("d", "lost", False)]
    scanning, paused, *_ = listed(client)
    assert scanning["busy"] == [{"kind": "scan", "job_id": None, "since": None}]
    assert paused["paused_reason"] == "The worker's disk is full"


def test_a_job_whose_lease_expired_keeps_no_slot_busy(client: TestClient, served: Context) -> None:
    register(served, "a:train-0:1")
    job_id = a_job(served.database, a_project(served.database))
    with served.database.write() as session:
        job_queue.claim(session, Stage.TRAIN, owner="a:train-0:1", lease_s=60, gpus=0)
        session.execute(update(Job).where(Job.id == job_id).values(lease_until=db_now() - 1))
    assert (listed(client)[0]["busy"], listed(client)[0]["status"]) == ([], "idle")


def test_processes_that_take_no_jobs_report_through_the_broker(
    client: TestClient, served: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(served, "a:train-0:1")
    report = ProcessReport(owner="b:sample-0:2", stage="sample", slots=4, answering=3, device="H200", gpus=1)
    with reporting(served.settings.broker_url, lambda: report):
        while len(shown := listed(client)) < 2:
            pass  # its first report is on its way
        *_, sampler = shown
        assert [sampler[name] for name in ("host", "stages", "status", "answering")] == ["b", ["sample"], "busy", 3]
        assert (sampler["device"], sampler["started_at"] > 0, sampler["busy"]) == ("H200", True, [])
        with monkeypatch.context() as later:
            later.setattr(beats, "ALIVE_S", -1.0)
            assert listed(client)[-1]["status"] == "lost"
    assert listed(client)[-1]["status"] == "stopped"
    other = report.model_copy(update={"owner": "b:sample-1:3"})
    with reporting(served.settings.broker_url, lambda: other):
        while "b:sample-1:3" not in (ids := [worker["id"] for worker in listed(client)]):
            pass
    assert ids == ["a:train-0:1", "b:sample-1:3"], "it takes the place of the one that ended on its host"
