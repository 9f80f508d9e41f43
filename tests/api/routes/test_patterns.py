"""Patterns of layers' names in recipes: what cannot be read is refused, and nothing waits for what can."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.context import Context
from api.records import workers
from api.services import base_models
from api.spec import patterns
from api.spec.lifecycle import Stage
from tests.api.routes.test_files import upload
from tests.conftest import EMBEDDED
from tests.hostile import CATASTROPHIC, UNUSABLE
from tests.worker.prepared import jsonl

SETTINGS = EMBEDDED

CHAT = {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "four"}]}
FIELDS: list[Callable[[str], dict[str, Any]]] = [
    lambda pattern: {"target_modules": pattern},
    lambda pattern: {"rank_pattern": {pattern: 2}},
    lambda pattern: {"alpha_pattern": {pattern: 2}},
]


@pytest.fixture
def body(client: TestClient, served: Context, tiny_base: Path) -> dict[str, Any]:
    base_models.register(served, "tiny", tiny_base)
    with served.database.write() as session:
        workers.register(session, owner="w", stage=Stage.TRAIN, memory_bytes=8 << 30)
    return {"model": "tiny", "training_file": upload(client, content=jsonl(*[CHAT] * 12)).json()["id"]}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("pattern", ["(", "(?!model).*q_proj", "a{99999999999999}"])
def test_a_pattern_that_cannot_be_used_is_refused_in_words(
    field: Callable[[str], dict[str, Any]], pattern: str, client: TestClient, body: dict[str, Any]
) -> None:
    technique = {"type": "lora"} | field(pattern)
    param = f"technique.{next(iter(field(pattern)))}"
    error = client.post("/v1/fine_tuning/jobs", json=body | {"technique": technique})
    assert (error.status_code, error.json()["error"]["param"]) == (400, param)
    assert UNUSABLE[pattern] in error.json()["error"]["message"]
    stages = [body | {"name": "first", "technique": technique}]
    error = client.post("/v1/fine_tuning/pipelines", json={"model": "tiny", "stages": stages})
    assert (error.status_code, error.json()["error"]["param"]) == (400, f"stages.0.{param}")
    found = client.post("/v1/fine_tuning/estimates", json=body | {"technique": technique})
    assert (found.status_code, found.json()["reasons"][0]["param"]) == (200, param)


def test_flags_and_many_layers_are_counted(client: TestClient, body: dict[str, Any]) -> None:
    technique = {"type": "lora", "rank": 4, "target_modules": "(?i).*Q_PROJ", "rank_pattern": {r"(?i)LAYERS\.0\..*": 2}}
    found = client.post("/v1/fine_tuning/estimates", json=body | {"technique": technique}).json()
    assert (found["reasons"], found["trained_parameters"]) == ([], (4 + 2) * (32 + 32))


@pytest.mark.parametrize("pattern", CATASTROPHIC)
def test_patterns_are_read_while_no_connection_is_held(
    pattern: str, client: TestClient, served: Context, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    pool: Any = served.database.engine.pool
    for name in ("require", "full_matches", "first_match"):
        read = getattr(patterns, name)

        def counted(*given: Any, read: Any = read) -> Any:
            held.append(pool.checkedout())
            return read(*given)

        monkeypatch.setattr(patterns, name, counted)
    for field in FIELDS:
        technique = {"type": "lora"} | field(pattern)
        estimate = client.post("/v1/fine_tuning/estimates", json=body | {"technique": technique})
        assert estimate.status_code == 200
        assert client.post("/v1/fine_tuning/jobs", json=body | {"technique": technique}).status_code in (200, 400)
    assert held
    assert not any(held)
