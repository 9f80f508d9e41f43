import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from itertools import islice
from typing import Any

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import update
from sqlalchemy.exc import TimeoutError as PoolTimeout

from api.context import Caller, Context
from api.main import create_app
from api.records import charted_steps, events
from api.records.base import db_now
from api.records.keys import Key
from api.routes import live
from api.settings import Settings
from api.spec.lifecycle import JobStatus
from tests.api.conftest import client_of
from tests.api.served import listening
from tests.events import add_events, end, told
from tests.factories import a_job, a_project


@pytest.fixture
def job_id(served: Context) -> str:
    return a_job(served.database, a_project(served.database), JobStatus.RUNNING)


@pytest.fixture
def address(app: FastAPI) -> Iterator[str]:
    with listening(app) as address:
        yield address


@pytest.fixture
def http(address: str, client: TestClient) -> Iterator[httpx.Client]:
    limits = httpx.Limits(max_connections=None)
    headers = {"authorization": client.headers["authorization"]}
    with httpx.Client(base_url=address, headers=headers, timeout=60, trust_env=False, limits=limits) as http:
        yield http


def streamed(http: httpx.Client, job_id: str, last: str | None = None, most: int | None = None) -> list[str]:
    """The ids that come in a stream, up to so many: then it is cut."""
    headers = {} if last is None else {"Last-Event-ID": last}
    with http.stream("GET", f"/v1/fine_tuning/jobs/{job_id}/events?stream=true", headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        return [event_id for event_id, event in islice(told(answer.iter_lines()), most) if event["id"] == event_id]


def test_of_ten_thousand_events_none_is_lost_or_doubled_by_cuts(
    http: httpx.Client, served: Context, job_id: str
) -> None:
    written = add_events(served.database, job_id, 10_000)
    end(served.database, job_id)
    seen: list[str] = []
    for most in (1, 499, 500, 501, 3333, None):
        seen += streamed(http, job_id, seen[-1] if seen else None, most)
    assert seen[:-1] == written
    assert http.get(f"/v1/fine_tuning/jobs/{job_id}/events?limit=1").json()["data"][0]["id"] == seen[-1]


def test_messages_are_listed_without_the_metrics_between_them(client: TestClient, served: Context, job_id: str) -> None:
    add_events(served.database, job_id, 50)
    end(served.database, job_id)
    path = f"/v1/fine_tuning/jobs/{job_id}/events"
    assert [event["type"] for event in client.get(f"{path}?type=message").json()["data"]] == ["message"]
    assert client.get(f"{path}?type=message&stream=true").status_code == 400


def test_events_come_as_they_are_written_until_the_last(http: httpx.Client, served: Context, job_id: str) -> None:
    path, seen = f"/v1/fine_tuning/jobs/{job_id}/events?stream=true", []
    with http.stream("GET", path) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = told(answer.iter_lines())
        for step in range(3):
            add_events(served.database, job_id, 1, start=step)
            seen.append(next(lines)[1]["data"]["step"])
        end(served.database, job_id)
        rest = [event["message"] for _, event in lines]
    assert (seen, rest) == ([0, 1, 2], ["Fine-tuning job cancelled"])


def test_a_stream_that_has_nothing_to_say_says_so_until_its_key_is_revoked(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"stream_keep_alive_s": 0.05}))
    context = app.state.context
    job_id = a_job(context.database, a_project(context.database), JobStatus.RUNNING)
    headers = {"authorization": client_of(app, "default").headers["authorization"]}
    path = f"/v1/fine_tuning/jobs/{job_id}/events?stream=true"
    with listening(app) as address, httpx.stream("GET", address + path, headers=headers, trust_env=False) as answer:
        lines = answer.iter_lines()
        assert next(lines) == ": still here"
        with context.database.write() as session:
            session.execute(update(Key).values(revoked_at=db_now()))
        assert set(lines) <= {": still here", ""}, "the stream ends"


def test_after_the_last_event_of_an_ended_job_there_is_nothing_to_follow(
    client: TestClient, served: Context, job_id: str
) -> None:
    end(served.database, job_id)
    path = f"/v1/fine_tuning/jobs/{job_id}/events"
    last = client.get(path).json()["data"][0]["id"]
    answer = client.get(f"{path}?stream=true", headers={"Last-Event-ID": last})
    assert (answer.status_code, answer.content) == (204, b"")


def test_two_hundred_streams_leave_the_other_calls_free(http: httpx.Client, served: Context, job_id: str) -> None:
    add_events(served.database, job_id, 1)
    opened, ended = threading.Semaphore(0), []

    def follow() -> None:
        with http.stream("GET", f"/v1/fine_tuning/jobs/{job_id}/events?stream=true") as answer:
            lines = told(answer.iter_lines())
            next(lines)
            opened.release()
            ended.append(len(list(lines)))

    with ThreadPoolExecutor(200) as pool:
        for _ in range(200):
            pool.submit(follow)
        assert all(opened.acquire(timeout=60) for _ in range(200))
        waits = [http.get("/v1/models").elapsed.total_seconds() for _ in range(20)]
        add_events(served.database, job_id, 5, start=1)
        end(served.database, job_id)
    assert sorted(waits)[10] < 0.5, waits
    assert ended == [6] * 200


def test_there_are_only_so_many_streams(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"max_streams": 0}))
    context = app.state.context
    job_id = a_job(context.database, a_project(context.database))
    answer = client_of(app, "default").get(f"/v1/fine_tuning/jobs/{job_id}/events?stream=true")
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_streams")


@pytest.mark.parametrize(
    ("query", "headers", "param"),
    [
        ("stream=true&limit=3", {}, "limit"),
        ("stream=true&after=ftevent-1", {}, "after"),
        ("stream=true", {"Last-Event-ID": "ftevent-none"}, "Last-Event-ID"),
        ("stream=perhaps", {}, "stream"),
    ],
)
def test_what_cannot_be_streamed_is_named(
    client: TestClient, job_id: str, query: str, headers: dict[str, str], param: str
) -> None:
    answer = client.get(f"/v1/fine_tuning/jobs/{job_id}/events?{query}", headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_another_projects_job_is_not_to_be_followed(other_project: TestClient, job_id: str) -> None:
    for path in ("events?stream=true", "metrics"):
        assert other_project.get(f"/v1/fine_tuning/jobs/{job_id}/{path}").status_code == 404


def test_metrics_are_told_whole_or_thinned(client: TestClient, served: Context, job_id: str) -> None:
    add_events(served.database, job_id, 300)
    path = f"/v1/fine_tuning/jobs/{job_id}/metrics"
    whole = client.get(path).json()
    assert [point["step"] for point in whole["data"]] == list(range(300))
    few = client.get(path, params={"max_points": 20}).json()
    assert len(few["data"]) <= 20
    assert (few["total_points"], few["data"][0], few["data"][-1]) == (300, whole["data"][0], whole["data"][-1])
    assert client.get(path, params={"max_points": 1}).status_code == 400


def test_step_that_was_trained_again_has_its_newest_metrics(
    client: TestClient, served: Context, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "BATCH", 7)
    add_events(served.database, job_id, 20)
    again = {"step": 5, "train_loss": 9.0}
    with served.database.write() as session:
        charted_steps.add(session, job_id, "Step 5 again", again)
    path = f"/v1/fine_tuning/jobs/{job_id}/metrics"
    response = client.get(path)
    assert "content-length" not in response.headers, "it was whole in memory"
    whole, few = response.json(), client.get(path, params={"max_points": 4}).json()
    assert [point["step"] for point in whole["data"]] == list(range(20))
    assert whole["data"][5] == again
    assert again in few["data"]
    assert whole["total_points"] == few["total_points"] == 20


def test_each_batch_of_metrics_is_read_in_a_turn(served: Context, job_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "BATCH", 7)
    add_events(served.database, job_id, 20)
    project = a_project(served.database)

    async def scenario() -> bytes:
        caller = Caller(project, "key", "read")
        async with served.requests.turn(project):
            body: AsyncIterator[Any] = aiter(live.list_metrics(job_id, served, caller).body_iterator)
            read = [await anext(body), await anext(body)]
        async with AsyncExitStack() as turns:
            for _ in range(served.settings.requests_at_once):
                await turns.enter_async_context(served.requests.turn(project))
            waiting = asyncio.ensure_future(anext(body))
            await asyncio.sleep(0.05)
            assert not waiting.done()
        return b"".join([*read, await waiting, *[piece async for piece in body]])

    assert [point["step"] for point in msgspec.json.decode(asyncio.run(scenario()))["data"]] == list(range(20))


def test_outage_before_the_first_batch_of_metrics_is_a_503(
    client: TestClient, served: Context, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_events(served.database, job_id, 1)

    def away(*_: object) -> None:
        raise PoolTimeout

    monkeypatch.setattr(events, "metrics_at", away)
    assert client.get(f"/v1/fine_tuning/jobs/{job_id}/metrics").status_code == 503
