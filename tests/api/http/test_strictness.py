"""What a request may not be, however it is sent, and what no log repeats."""

import asyncio
import json
from contextlib import nullcontext
from typing import Any

import pytest
import structlog
from fastapi.testclient import TestClient

from api.context import Caller
from api.errors import RequestTimeout
from api.http import middleware
from api.http.middleware import LimitBody, LimitUploads
from api.infra.fair_limiter import ConcurrencyLimitExceeded, FairLimiter
from tests.api.http.test_errors import error_of
from tests.conftest import EMBEDDED

SETTINGS = EMBEDDED

NESTED = b'{"model": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
DEEP_ENOUGH_TO_READ = b'{"model": ' + b"[" * 900 + b"]" * 900 + b"}"


@pytest.mark.parametrize(
    "path", ["/v1/fine_tuning/jobs", "/openai/fine_tuning/jobs", "/openai/deployments/x/chat/completions"]
)
@pytest.mark.parametrize("body", [NESTED, DEEP_ENOUGH_TO_READ])
def test_deeply_nested_json_is_a_400(client: TestClient, path: str, body: bytes) -> None:
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    error_of(answer)


@pytest.mark.parametrize("mount", ["/v1", "/openai/v1"])
def test_a_thousand_pairs_of_metadata_are_a_400(client: TestClient, mount: str) -> None:
    query = "&".join(f"metadata[k{n}]=v" for n in range(1000))
    answer = client.get(f"{mount}/fine_tuning/jobs?{query}")
    assert answer.status_code == 400
    assert error_of(answer)["code"] == "too_many_parameters"


@pytest.mark.parametrize(
    ("fields", "param"),
    [([("purpose", "fine-tune")] * 2, "purpose"), ([(f"f{n}", "x") for n in range(100)], None)],
)
def test_repeated_and_too_many_fields_of_a_form_are_a_400(
    client: TestClient, fields: list[tuple[str, str]], param: str | None
) -> None:
    parts = [(name, (None, value)) for name, value in fields]
    answer = client.post("/v1/files", files=[*parts, ("file", ("a.jsonl", b"{}\n"))])
    assert answer.status_code == 400
    assert error_of(answer)["param"] == param


@pytest.mark.parametrize("path", ["/v1/models", "/v1/nothing-here", "/healthz"])
def test_no_answer_is_kept_by_a_cache(client: TestClient, path: str) -> None:
    assert client.get(path).headers["cache-control"] == "no-store"


def test_answer_to_a_stranger_is_not_kept_either(client: TestClient) -> None:
    answer = client.get("/v1/models", headers={"authorization": "Bearer wrong"})
    assert (answer.status_code, answer.headers["cache-control"]) == (401, "no-store")


@pytest.mark.parametrize("mount", ["/v1", "/openai"])
def test_target_in_absolute_form_is_understood_and_its_key_not_logged(client: TestClient, mount: str) -> None:
    secret = client.headers["authorization"].removeprefix("Bearer ")
    with structlog.testing.capture_logs() as logs:
        answer = _get_target(client, f"http://me:{secret}@somewhere{mount}/models")
        misplaced = _get_target(client, f"{mount}/models/{secret}")
    assert (answer.status_code, misplaced.status_code) == (200, 404)
    assert secret not in json.dumps(logs)


def _get_target(client: TestClient, target: str):
    """httpx writes every target in origin form; the scope that uvicorn makes of another has it whole in `path`."""
    inner = client._transport.app  # type: ignore[attr-defined]

    async def app(scope, receive, send):
        await inner(
            scope | ({"path": target, "raw_path": target.encode()} if scope["type"] == "http" else {}), receive, send
        )

    return TestClient(app, headers=dict(client.headers), raise_server_exceptions=False).get("/")


POST = {"type": "http", "method": "POST", "headers": [], "state": {"caller": Caller("project", "key", "write")}}


async def read_all(scope: Any, receive: Any, send: Any) -> None:
    """An app that reads the body of a request."""
    while (await receive()).get("more_body"):
        pass


async def no_answer(message: Any) -> None:
    raise AssertionError(message)


def sent(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_bodies_of_which_only_a_part_arrived_take_turns_by_project() -> None:
    async def scenario() -> None:
        turns = FairLimiter("bodies", total=9, per_project=1, max_waiting=1)
        limit, scope = LimitBody(read_all, 9, turns), POST | {"path": "/v1/evals"}
        bodies = [asyncio.Queue[Any]() for _ in range(3)]
        tasks = []
        for body in bodies:
            body.put_nowait(sent(b"x"))
            tasks.append(asyncio.create_task(limit(scope, body.get, no_answer)))
            await asyncio.sleep(0.01)
        with pytest.raises(ConcurrencyLimitExceeded):
            await tasks[2]
        bodies[1].put_nowait(sent(b"x", more=False))
        await asyncio.sleep(0.01)
        assert not tasks[1].done(), "the second body was read before its turn"
        bodies[0].put_nowait(sent(b"x", more=False))
        await asyncio.gather(*tasks[:2])

    asyncio.run(scenario())


def test_body_whose_turn_does_not_come_is_refused() -> None:
    async def scenario() -> None:
        turns = FairLimiter("bodies", total=1, per_project=1, max_waiting=1, wait_s=0.01)
        async with turns.turn("project"):
            body = asyncio.Queue[Any]()
            body.put_nowait(sent(b"x"))
            with pytest.raises(ConcurrencyLimitExceeded, match="This project has 1 bodies"):
                await LimitBody(read_all, 9, turns)(POST | {"path": "/v1/evals"}, body.get, no_answer)

    asyncio.run(scenario())


@pytest.mark.parametrize(("size", "ends"), [(1, True), (10, False)])
def test_upload_that_is_too_slow_on_average_ends(monkeypatch: pytest.MonkeyPatch, size: int, ends: bool) -> None:
    monkeypatch.setattr(middleware, "SILENCE_S", 0.05)
    monkeypatch.setattr(middleware, "LOWEST_RATE", 200)
    turns, left = FairLimiter("uploads", total=1, per_project=1, max_waiting=0), iter(range(10))

    async def slowly() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return sent(b"x" * size, more=next(left) < 9)

    async def scenario() -> None:
        with pytest.raises(RequestTimeout, match="less than 200 bytes") if ends else nullcontext():
            await LimitUploads(read_all, turns)(POST | {"path": "/v1/files"}, slowly, no_answer)
        async with turns.turn("project"):  # it returned its turn
            pass

    asyncio.run(scenario())
