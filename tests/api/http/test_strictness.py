"""What a request may not be, however it is sent, and what no log repeats."""

import asyncio
import json
from typing import Any

import pytest
import structlog
from fastapi.testclient import TestClient

from api.context import Caller
from api.http.middleware import LimitBody
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


def test_bodies_of_which_only_a_part_arrived_are_limited_by_project() -> None:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass

    async def send(message: Any) -> None:
        sent.append(message)

    async def scenario() -> None:
        limit = LimitBody(app, 9, FairLimiter("bodies", total=9, per_project=1, max_waiting=0))
        state = {"caller": Caller("project", "key", "read")}
        scope = {"type": "http", "method": "POST", "path": "/v1/evals", "headers": [], "state": state}
        bodies = [asyncio.Queue[Any]() for _ in range(2)]
        for body in bodies:
            body.put_nowait({"type": "http.request", "body": b"x", "more_body": True})
        first = asyncio.create_task(limit(scope, bodies[0].get, send))
        await asyncio.sleep(0.01)
        with pytest.raises(ConcurrencyLimitExceeded):
            await limit(scope, bodies[1].get, send)
        bodies[0].put_nowait({"type": "http.request", "body": b"x"})
        await first
        bodies[1].put_nowait({"type": "http.request", "body": b"x"})
        await limit(scope, bodies[1].get, send)

    asyncio.run(scenario())
    assert sent == []
