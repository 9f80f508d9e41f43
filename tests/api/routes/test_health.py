"""`/v1/health`: what each key sees, and that a component which hangs delays nobody."""

import asyncio
import threading
from collections.abc import Iterator
from unittest.mock import Mock

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import update

from api.context import Caller, Context
from api.records import workers
from api.records.base import db_now
from api.records.jobs import Job
from api.records.workers import Worker
from api.services import checkup
from api.services.checkup import Checkup, Part
from api.services.diagnosis import Check
from api.spec.fields import JsonObject
from api.spec.lifecycle import Stage
from tests.api.conftest import client_of
from tests.conftest import EMBEDDED
from tests.factories import a_base_model, a_job, a_project

SETTINGS = EMBEDDED
OPERATOR = Caller("proj_1", "key_1", "operator")


@pytest.fixture
def operator(app: FastAPI) -> TestClient:
    return client_of(app, "default", "operator")


def checks(client: TestClient) -> dict[str, JsonObject]:
    answer = client.get("/v1/health")
    assert answer.status_code == 200, answer.text
    return {check["component"]: check for check in answer.json()["data"]}


def register(context: Context, owner: str, stage: Stage, **changes: object) -> None:
    with context.database.write() as session:
        workers.register(session, owner=owner, stage=stage, slots=2, version=None)
        session.flush()
        session.execute(update(Worker).where(Worker.owner == owner).values(**{"version": "0", **changes}))


def test_an_operator_sees_every_component(operator: TestClient, served: Context) -> None:
    a_base_model(served.database)
    found = checks(operator)
    assert {"database", "schema", "storage", "stored bytes", "broker", "queue", "disk", "base models"} <= set(found)
    assert found["schema"]["detail"].endswith("the newest")
    assert (found["broker"]["status"], found["base models"]["detail"]) == ("ok", "tiny")
    missing = found["workers: train"]
    assert (missing["status"], missing["detail"]) == ("problem", "none is live, so jobs wait")
    assert "attune worker --stage train" in missing["remedy"]


@pytest.mark.parametrize("scope", ["read", "admin"])
def test_the_keys_of_a_project_see_only_what_is_shared(app: FastAPI, served: Context, scope: str) -> None:
    found = checks(client_of(app, "default", scope))
    assert set(found) == {"workers: prepare", "workers: train", "base models"}


def test_wrong_clocks_and_versions_of_workers_are_named(operator: TestClient, served: Context) -> None:
    register(served, "a:prepare-0:1", Stage.PREPARE)
    register(served, "b:train-0:2", Stage.TRAIN, clock_at=Worker.seen_at + 40)
    found = checks(operator)
    assert (found["workers: train"]["status"], found["workers: train"]["detail"]) == ("ok", "1 live, 2 slots")
    assert found["workers' clocks"]["status"] == "warning"
    assert found["workers' clocks"]["detail"].endswith("b (train) by +40 s")
    assert "a (prepare): 0; b (train): 0" in found["versions"]["detail"]


def test_paused_and_lost_workers_are_named(operator: TestClient, served: Context) -> None:
    register(served, "a:prepare-0:1", Stage.PREPARE, held="its disk is full")
    register(served, "b:train-0:2", Stage.TRAIN)
    register(served, "c:train-0:3", Stage.TRAIN, seen_at=db_now() - 600)
    found = checks(operator)
    assert found["workers: prepare"]["detail"] == "1 of 1 paused: a: its disk is full"
    assert found["workers: train"]["detail"] == "1 live, 1 lost: c, silent for 10 min"


def test_the_queue_of_all_projects_is_stuck_if_slots_stay_free(operator: TestClient, served: Context) -> None:
    job_id = a_job(served.database, a_project(served.database, "other"))
    register(served, "b:train-0:2", Stage.TRAIN)
    with served.database.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(created_at=db_now() - 7200))
    queue = checks(operator)["queue"]
    assert (queue["status"], queue["detail"]) == (
        "warning",
        "waiting although slots are free: 1 job for train, the oldest for 120 min",
    )


@pytest.fixture
def hanging(served: Context, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Checkup, list[int]]]:
    """A checkup whose broker does not answer before the test ends, and the number of calls of its check."""
    monkeypatch.setattr(checkup, "LIMIT_S", 0.2)
    monkeypatch.setattr(checkup, "CACHE_S", 0)
    ended, calls = threading.Event(), [0]

    def hang() -> list[Check]:
        calls[0] += 1
        ended.wait(30)
        return []

    found = Checkup(served)
    found._parts = [Part("broker", hang), Part("disk", lambda: [Check("disk", "ok", "1 GB free")])]
    yield found, calls
    ended.set()


def test_a_check_that_hangs_is_a_finding_and_holds_one_thread(hanging: tuple[Checkup, list[int]]) -> None:
    found, calls = hanging

    async def ask() -> list[Check]:
        await found.checks(OPERATOR)
        return await found.checks(OPERATOR)

    loop = asyncio.new_event_loop()
    broker, disk = loop.run_until_complete(ask())
    assert (broker.status, broker.detail, disk.status) == ("problem", "no answer within 0 s", "ok")
    assert calls == [1]


def test_requests_share_the_checks_while_one_hangs(
    hanging: tuple[Checkup, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkup, "CACHE_S", 10)
    found, _ = hanging
    run = Mock(return_value=[])
    disk = found._parts[1] = Part("disk", run)

    async def ask() -> None:
        first = asyncio.create_task(found.checks(OPERATOR))
        while disk.task is None or not disk.task.done():
            await asyncio.sleep(0)
        await found.checks(OPERATOR)
        await first

    asyncio.new_event_loop().run_until_complete(ask())
    assert run.call_count == 1


def test_results_are_shared_for_some_seconds(operator: TestClient, app: FastAPI) -> None:
    first = checks(operator)["queue"]
    a_job(app.state.context.database, a_project(app.state.context.database))
    assert checks(operator)["queue"] == first
