"""Every error in OpenAI's shape, whoever raised it."""

import errno
import json
import shutil
import socket
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import event

from api.context import Context
from api.infra.signatures import KEYS_PATH
from api.main import create_app
from api.services import keys, models
from api.settings import Settings
from tests.api.conftest import client_of
from tests.api.routes.test_files import stored_objects, upload
from tests.api.served import listening
from tests.conftest import EMBEDDED
from tests.factories import a_model, a_project

SETTINGS = EMBEDDED


def error_of(answer: Any) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert answer.headers["x-request-id"].startswith("req_")
    error: dict[str, Any] = body["error"]
    return error


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing-here", 404),
        ("GET", "/nothing-here", 404),
        ("PUT", "/v1/files", 405),
        ("GET", "/v1/files/file-unknown", 404),
        ("GET", "/v1/fine_tuning/jobs/ftjob-unknown", 404),
        ("GET", "/v1/models/unknown", 404),
        ("GET", "/v1/models/un/known/artifacts/x", 404),
        ("GET", "/v1/files?limit=0", 400),
        ("GET", "/v1/files?order=sideways", 400),
        ("GET", "/v1/files?after=file-unknown", 400),
        ("GET", "/v1/fine_tuning/jobs?limit=many", 400),
    ],
)
def test_the_frameworks_own_errors_have_the_shape_too(client: TestClient, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    error_of(answer)


@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b'"text"', b'{"model": "\\ud800"}', b"\xff\xfe", b""])
def test_a_body_that_is_no_object_is_a_400(client: TestClient, body: bytes) -> None:
    answer = client.post("/v1/fine_tuning/jobs", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    error_of(answer)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("webhooks", {"name": "a\0", "url": "https://example.com", "event_types": ["fine_tuning.job.failed"]}),
        ("fine_tuning/checkpoints/none/permissions", {"project_ids": ["a\0"]}),
        ("uploads", {"bytes": 1, "filename": "a\0", "mime_type": "text/jsonl", "purpose": "fine-tune"}),
        ("uploads/none/complete", {"part_ids": ["a\0"]}),
        ("fine_tuning/pipelines", {"model": "tiny", "metadata": {"a": "\0"}, "stages": []}),
    ],
)
def test_a_nul_in_what_would_be_stored_is_a_400(client: TestClient, path: str, body: dict[str, object]) -> None:
    answer = client.post(f"/v1/{path}", json=body)
    assert (answer.status_code, "NUL" in error_of(answer)["message"]) == (400, True)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("batches", {"input_file_id": "\ud800", "endpoint": "/v1/completions", "completion_window": "24h"}),
        ("fine_tuning/checkpoints/none/permissions", {"project_ids": ["\ud800"]}),
        ("uploads", {"bytes": 1, "filename": "a", "mime_type": "text/jsonl", "purpose": "\ud800"}),
        ("uploads/none/complete", {"part_ids": ["\ud800"]}),
        ("fine_tuning/jobs", {"\ud800": 1}),
    ],
)
def test_half_of_a_character_is_a_400(client: TestClient, path: str, body: dict[str, object]) -> None:
    answer = client.post(f"/v1/{path}", content=json.dumps(body), headers={"content-type": "application/json"})
    assert (answer.status_code, "half of a character" in error_of(answer)["message"]) == (400, True)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"what is this?\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 100_000, 431),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    ],
)
def test_what_is_no_http_is_refused_in_the_shape_too(app: FastAPI, sent: bytes, status: int) -> None:
    with listening(app) as address:
        url = httpx.URL(address)
        with socket.create_connection((url.host, url.port), 30) as raw:
            raw.sendall(sent)
            answer = HTTPResponse(raw)
            answer.begin()
            error = json.loads(answer.read())["error"]
    assert (answer.status, error["type"], error["code"]) == (status, "invalid_request_error", "invalid_http_request")
    assert answer.headers["x-request-id"].startswith("req_")


def test_a_body_over_the_limit_is_a_413_even_without_a_length(client: TestClient) -> None:
    def endless():
        for _ in range(100):
            yield b" " * 100_000

    declared = client.post("/v1/fine_tuning/jobs", content=b" " * 5_000_000)
    undeclared = client.post("/v1/fine_tuning/jobs", content=endless())
    assert (declared.status_code, undeclared.status_code) == (413, 413)
    error_of(declared), error_of(undeclared)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic abc", "Bearer sk-attune-wrong", "Bearer \xff"])
def test_without_a_valid_key_nothing_is_answered(app: FastAPI, header: str) -> None:
    headers: dict[str, Any] = {"Authorization": header.encode("latin-1")}
    stranger = TestClient(app, headers=headers)
    for method, path in (("GET", "/v1/files"), ("POST", "/v1/files"), ("GET", "/v1/nothing-here")):
        answer = stranger.request(method, path)
        assert (answer.status_code, error_of(answer)["code"]) == (401, "invalid_api_key")
    assert stranger.get("/healthz").status_code == 200
    assert stranger.get(KEYS_PATH).json() == {"keys": []}


def test_a_revoked_or_expired_key_stops_working_at_once(app: FastAPI, served: Context) -> None:
    key, plain = keys.create(served, project="default", name="k", scope="write")
    client = TestClient(app, headers={"Authorization": f"Bearer {plain}"})
    assert client.get("/v1/files").status_code == 200
    keys.revoke(served, key.id)
    assert client.get("/v1/files").status_code == 401
    _, expired = keys.create(served, project="default", name="k", scope="write", expires_in_s=-1)
    assert client.get("/v1/files", headers={"Authorization": f"Bearer {expired}"}).status_code == 401


def test_a_keys_plain_text_is_nowhere_in_the_database(served: Context) -> None:
    _, plain = keys.create(served, project="default", name="k", scope="write")
    secret = plain.removeprefix("sk-attune-")
    for key, project in keys.listed(served):
        shown = " ".join(str(value) for value in vars(key).values()) + project
        assert secret not in shown


def test_an_unexpected_error_is_a_500_that_tells_nothing_of_the_inside(
    app: FastAPI, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.get("/v1/broken")
    def broken() -> None:
        raise RuntimeError("/secret/path")

    answer = client.get("/v1/broken")
    assert (answer.status_code, error_of(answer)["type"]) == (500, "server_error")
    assert answer.headers["x-request-id"] in error_of(answer)["message"]
    assert "secret" not in answer.text


def test_a_database_that_is_away_is_a_503_with_a_time_to_try_again(tmp_path: Path) -> None:
    app = create_app(Settings(data_dir=tmp_path, database_url="postgresql://nobody@127.0.0.1:1/none"))
    answer = TestClient(app).get("/v1/files", headers={"Authorization": "Bearer sk-attune-any"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    error_of(answer)


def test_errors_of_the_database_are_503s_with_a_time_to_try_again(app: FastAPI, client: TestClient) -> None:
    """A server that can only be read, as after a fail-over: what reads goes on, what writes is told to wait."""
    engine = app.state.context.database.engine

    @event.listens_for(engine, "connect")
    def only_read(connection: Any, _: Any) -> None:
        if engine.dialect.name == "sqlite":
            connection.execute("PRAGMA query_only = ON")
        else:
            connection.read_only = True

    uploaded = upload(client).json()
    engine.dispose()
    assert client.get("/v1/files").status_code == 200
    for answer in (client.delete(f"/v1/files/{uploaded['id']}"), upload(client)):
        assert (answer.status_code, answer.headers.get("retry-after")) == (503, "2"), answer.text
        assert error_of(answer)["code"] == "unavailable"


def test_a_data_folder_that_is_gone_is_a_503_everywhere(tmp_path: Path, sqlite_template: Path, valkey_url: str) -> None:
    """Open files outlive their names: SQLite would go on answering, and writing, into nothing."""
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(sqlite_template, data / "attune.db")
    app = create_app(Settings(data_dir=data, broker_url=SecretStr(valkey_url)))
    client = client_of(app, "default")
    file_id = upload(client).json()["id"]
    paths = ["/readyz", "/v1/files", f"/v1/files/{file_id}/content"]
    assert [client.get(path).status_code for path in paths] == [200, 200, 200]
    data.rename(tmp_path / "away")
    for answer in [*map(client.get, paths), upload(client)]:
        assert (answer.status_code, int(answer.headers["retry-after"]) > 0) == (503, True), answer.text
        error_of(answer)
    data.mkdir()  # an empty one in its place is not it, either
    assert [client.get(path).status_code for path in paths] == [503, 503, 503]
    assert list(data.iterdir()) == [], "nothing is written where nobody looks for it"
    data.rmdir()
    (tmp_path / "away").rename(data)
    assert [client.get(path).status_code for path in paths] == [200, 200, 200]


@pytest.mark.parametrize(
    ("path", "instead"), [("/v1/responses", "/v1/chat/completions"), ("/v1/fine-tunes", "/v1/fine_tuning/jobs")]
)
def test_a_call_that_is_only_at_openai_says_what_to_call_here(client: TestClient, path: str, instead: str) -> None:
    answer = client.post(path, json={})
    assert answer.status_code == 404
    assert instead in answer.json()["error"]["message"]


def test_a_405_names_all_methods_that_the_address_has(client: TestClient) -> None:
    assert client.put("/v1/files").headers["allow"] == "GET, POST"
    assert client.post("/v1/models/tiny").headers["allow"] == "DELETE, GET"


def test_a_nul_in_a_body_is_a_400_and_never_a_500(app: FastAPI, served: Context) -> None:
    client = client_of(app, "default", "admin")
    checkpoint = a_model(served, a_project(served.database)) + ":ckpt-step-5"
    granted = client.post(f"/v1/fine_tuning/checkpoints/{checkpoint}/permissions", json={"project_ids": ["a\0"]})
    announced = {"bytes": 3, "filename": "a\0", "mime_type": "text/jsonl", "purpose": "fine-tune"}
    assert granted.status_code == 400
    assert client.post("/v1/uploads", json=announced).status_code in (200, 400)  # SQLite stores it
    error_of(granted)


def test_a_body_that_is_not_said_to_be_json_is_refused_with_what_to_do(client: TestClient) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}  # curl's, where nothing is said
    answer = client.post("/v1/fine_tuning/jobs", content=b'{"model": "tiny"}', headers=form)
    assert answer.status_code == 400
    assert "Content-Type: application/json" in str(error_of(answer)["message"])


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (
            b'{"model": "tiny",}',
            "JSON body of your request: Expecting property name enclosed in double quotes at character 18",
        ),
        (b"[]", "needs a JSON object as its body"),
    ],
)
def test_a_broken_body_is_refused_with_the_place(client: TestClient, body: bytes, problem: str) -> None:
    answer = client.post("/v1/fine_tuning/jobs", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert error_of(answer)["message"].endswith(problem)


def test_a_full_disk_is_a_507_that_clients_do_not_try_again(sqlite_url: str, tmp_path: Path, no_room: None) -> None:
    app = create_app(Settings(data_dir=tmp_path / "data", database_url=sqlite_url))
    client = client_of(app, "default")
    answer = upload(client, b"{}\n" * 1_000_000)
    assert (answer.status_code, answer.headers["x-should-retry"]) == (507, "false")
    assert error_of(answer)["code"] == "insufficient_storage"
    assert (client.get("/v1/files").json()["data"], stored_objects(app.state.context)) == ([], [])
    assert upload(client).status_code == 200


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "Too many open files"), RuntimeError("can't start new thread")]
)
def test_a_request_to_an_exhausted_machine_may_be_repeated(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(models, "listed", fail)
    answer = client.get("/v1/models")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert error_of(answer)["code"] == "unavailable"
