"""What one project makes the server wait for, other projects do not wait for. All of it with the real parts: requests
are provably under way, since what they wait for is held by the test."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI

from api.main import create_app
from api.records import files
from api.services import base_models, keys
from api.settings import Settings
from tests.factories import a_base_model, a_file, a_project
from tests.worker.prepared import jsonl

CHAT = {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "four"}]}

Client = httpx.AsyncClient


@pytest.fixture
def settings(sqlite_url: str, tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", database_url=sqlite_url, preview_seconds=10)


@pytest.fixture
def app(settings: Settings) -> Iterator[FastAPI]:
    app = create_app(settings)
    yield app
    app.state.context.database.dispose()


@asynccontextmanager
async def clients(app: FastAPI) -> AsyncIterator[tuple[Client, Client]]:
    """Of the project that attacks, and of another."""

    def client(project: str) -> Client:
        _, plain = keys.create(app.state.context, project=project, name="test", scope="write")
        transport = httpx.ASGITransport(app)
        return Client(transport=transport, base_url="http://server", headers={"Authorization": f"Bearer {plain}"})

    async with client("default") as attacker, client("other") as other:
        yield attacker, other


def stalled_file(app: FastAPI, tmp_path: Path) -> tuple[str, Path]:
    """A file whose bytes never come: (id, its object, which is a FIFO)."""
    context = app.state.context
    file_id = a_file(context, a_project(context.database), jsonl(*[CHAT] * 12))
    with context.database.read() as session:
        key = session.get_one(files.File, file_id).storage_key
    path = Path(context.settings.storage) / str(key)
    path.unlink()
    os.mkfifo(path)
    return file_id, path


def let_go(fifo: Path) -> None:
    """End whatever waits for the bytes of this file: now, and later."""
    descriptor = os.open(fifo, os.O_RDWR)
    fifo.unlink()
    fifo.write_bytes(b"")
    os.close(descriptor)


async def begun(requests: Callable[[], Awaitable[httpx.Response]], count: int) -> list[asyncio.Task[httpx.Response]]:
    tasks = [asyncio.ensure_future(requests()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def refused(tasks: list[asyncio.Task[httpx.Response]], count: int) -> set[int]:
    """The statuses of so many answers, once they are there; the other requests are still under way."""
    while sum(task.done() for task in tasks) < count:
        await asyncio.sleep(0.01)
    done = [task.result().status_code for task in tasks if task.done()]
    assert len(done) == count
    return set(done)


async def answers_others(other: Client) -> None:
    for path in ("/v1/models", "/v1/files", "/v1/fine_tuning/jobs", "/healthz", "/readyz"):
        assert (await other.get(path)).status_code == 200
    assert (await other.get("/v1/models", headers={"Authorization": "Bearer wrong"})).status_code == 401


async def ended(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_downloads_that_stall_hold_nothing_that_others_need(app: FastAPI, tmp_path: Path) -> None:
    async def run() -> None:
        file_id, fifo = stalled_file(app, tmp_path)
        async with clients(app) as (attacker, other):
            tasks = await begun(lambda: attacker.get(f"/v1/files/{file_id}/content"), 60)
            await answers_others(other)
            assert (await attacker.get("/v1/models")).status_code == 200
            assert not any(task.done() for task in tasks)
            let_go(fifo)
            await ended(tasks)

    asyncio.run(run())


def test_previews_that_wait_hold_nothing_and_beyond_a_few_are_refused(
    app: FastAPI, tmp_path: Path, tiny_base: Path
) -> None:
    async def run() -> None:
        context = app.state.context
        base_models.register(context, "tiny", tiny_base)
        file_id, fifo = stalled_file(app, tmp_path)
        theirs = a_file(context, a_project(context.database, "other"), jsonl(*[CHAT] * 12))
        body = {"model": "tiny", "training_file": file_id}
        async with clients(app) as (attacker, other):
            tasks = await begun(lambda: attacker.post("/v1/fine_tuning/previews", json=body), 200)
            await answers_others(other)
            answer = await other.post("/v1/fine_tuning/previews", json=body | {"training_file": theirs})
            assert answer.status_code == 200, answer.text
            assert await refused(tasks, 200 - 1 - context.settings.preview_waiting) == {429}
            let_go(fifo)
            await asyncio.gather(*tasks)

    asyncio.run(run())


def test_requests_that_wait_for_the_database_leave_threads_to_others(app: FastAPI, settings: Settings) -> None:
    async def run() -> None:
        a_base_model(app.state.context.database)
        async with clients(app) as (attacker, other):
            lock = sqlite3.connect(settings.database.removeprefix("sqlite:///"), isolation_level=None)
            lock.execute("BEGIN IMMEDIATE")
            body = {"model": "tiny", "training_file": "file-none"}
            tasks = await begun(lambda: attacker.post("/v1/fine_tuning/jobs", json=body), 150)
            await answers_others(other)
            assert await refused(tasks, 150 - settings.requests_at_once - settings.requests_waiting) == {429}
            await answers_others(other)
            lock.close()
            assert {answer.status_code for answer in await asyncio.gather(*tasks)} == {400, 429}

    asyncio.run(run())


def test_keys_and_health_need_none_of_the_threads_that_requests_share(app: FastAPI) -> None:
    async def run() -> None:
        free = threading.Event()
        async with clients(app) as (_, other):
            tasks = [asyncio.ensure_future(anyio.to_thread.run_sync(free.wait)) for _ in range(40)]
            await asyncio.sleep(0)
            for path in ("/healthz", "/readyz"):
                assert (await other.get(path)).status_code == 200
            assert (await other.get("/v1/files", headers={"Authorization": "Bearer wrong"})).status_code == 401
            free.set()
            await asyncio.gather(*tasks)

    asyncio.run(run())


def test_a_flood_with_one_key_keeps_no_other_from_being_looked_up(app: FastAPI) -> None:
    async def run() -> None:
        async with clients(app) as (_, other):
            wrong = {"Authorization": "Bearer wrong"}
            tasks = await begun(lambda: other.get("/v1/models", headers=wrong), 300)
            assert (await other.get("/v1/models")).status_code == 200
            assert sum(task.done() for task in tasks) < 150
            assert {answer.status_code for answer in await asyncio.gather(*tasks)} == {401}

    asyncio.run(run())


def test_a_grading_that_takes_too_long_is_ended_and_holds_up_nobody(app: FastAPI, settings: Settings) -> None:
    slow = {"type": "text_similarity", "name": "slow", "evaluation_metric": "fuzzy_match"}
    slow |= {"input": "{{item.text}}", "reference": "{{item.other}}"}
    parts = {f"part{number}": slow for number in range(16)}
    grader = {"type": "multi", "name": "all", "graders": parts, "calculate_output": "+".join(parts)}
    texts = {"text": " ".join("abcdefgh"[number % 8] * 2 for number in range(33_000))}
    texts["other"] = " ".join("abcdefgh"[number % 7] * 2 for number in range(33_000))
    body = {"grader": grader, "model_sample": "x", "item": texts}

    async def run() -> None:
        app.state.context.previews._settings = settings.model_copy(update={"preview_seconds": 1})
        async with clients(app) as (attacker, other):
            tasks = await begun(lambda: attacker.post("/v1/fine_tuning/alpha/graders/run", json=body), 1)
            await answers_others(other)
            assert not tasks[0].done()
            answer = await tasks[0]
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "grader_too_slow")

    asyncio.run(run())
