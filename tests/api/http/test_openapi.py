"""Each error that the OpenAPI document names is one that a request gets, in the shape that it says."""

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.context import PROJECT_UPLOADS, Context
from api.http import idempotency, middleware
from api.infra.multipart import STREAMED
from api.infra.sample_queue import Consumer, Producer, SampleJob
from api.main import create_app
from api.records import idempotency as idempotency_records
from api.settings import Settings
from api.spec.fields import JsonObject
from tests.api.conftest import client_of
from tests.api.http.test_errors import error_of
from tests.api.sampler import a_request, ends, sampler
from tests.factories import a_base_model, a_file, a_job, a_project

CHAT = {"model": "none", "messages": [{"role": "user", "content": "a"}]}
TEXT = {"model": "none", "prompt": "a"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": TEXT,
    "/v1/uploads/{upload_id}/complete": {"part_ids": ["part_none"]},
    "/v1/fine_tuning/checkpoints/{checkpoint}/permissions": {"project_ids": ["default"]},
    "/v1/evals/{eval_id}": {"name": "new"},
    "/v1/evals/{eval_id}/runs": {"data_source": {"type": "jsonl", "source": {"type": "file_id", "id": "file-none"}}},
    "/v1/webhook_endpoints/{webhook_id}": {"name": "new"},
    "/v1/webhook_endpoints/{webhook_id}/test": {"event_type": "fine_tuning.job.failed"},
}
"""Good ones, of calls that look for what they are about only then."""
FORMS = {"/v1/files": "file", "/v1/uploads/{upload_id}/parts": "data"}
"""Where a file is sent, and as what."""
ANNOUNCED = {"bytes": 3, "filename": "a", "mime_type": "a/b", "purpose": "fine-tune"}
LONG = 64
"""Bytes."""

Operation = tuple[str, str]
"""Method and path."""


@pytest.fixture
def settings(sqlite_url: str, folder_url: str, valkey_url: str, tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path / "data",
        database_url=sqlite_url,
        storage_url=folder_url,
        broker_url=valkey_url,
        max_active_jobs=1,
        max_streams=0,
        sample_requests=1,
    )


@pytest.fixture
def admin(app: FastAPI) -> TestClient:
    return client_of(app, "default", "admin")


Documented = dict[str, list[Operation]]


@pytest.fixture(scope="session")
def documented(document: JsonObject) -> Documented:
    """By status: the operations that can answer with it."""
    found: Documented = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status in operation["responses"]:
                found.setdefault(status, []).append((method.upper(), path))
    return found


def address(path: str) -> str:
    """With names of what is not there."""
    return path.replace("{", "no-").replace("}", "")


def check(answer: Any, status: int, operation: Operation) -> None:
    assert answer.status_code == status, (operation, answer.text)
    error_of(answer)


def test_507_is_for_bytes_that_find_no_room(documented: Documented, admin: TestClient, no_room: None) -> None:
    paths = [path for _, path in documented["507"]]
    announced = {"filename": "a", "purpose": "fine-tune", "mime_type": "text/jsonl", "bytes": 600_000}
    upload = admin.post("/v1/uploads", json=announced).json()["id"]
    parts, complete = (path.replace("{upload_id}", upload) for path in sorted(set(paths) - {"/v1/files"}, reverse=True))
    whole, half = b"a" * 600_000, b"a" * 300_000
    part_ids = [admin.post(parts, files={"data": ("a", half)}).json()["id"] for _ in range(2)]
    check(admin.post("/v1/files", files={"file": ("a", whole)}), 507, ("POST", "/v1/files"))
    check(admin.post(parts, files={"data": ("a", whole)}), 507, ("POST", parts))
    check(admin.post(complete, json={"part_ids": part_ids}), 507, ("POST", complete))


def test_no_other_statuses_are_documented(documented: Documented) -> None:
    assert documented.keys() == {
        "200",
        "204",
        "206",
        "400",
        "401",
        "403",
        "404",
        "408",
        "409",
        "413",
        "416",
        "429",
        "500",
        "503",
        "507",
    }


def test_400_is_for_unknown_parameters(documented: Documented, admin: TestClient) -> None:
    for method, path in documented["400"]:
        check(admin.request(method, address(path), params={"nonsense": "1"}), 400, (method, path))


def test_401_is_for_no_key(documented: Documented, app: FastAPI) -> None:
    for method, path in documented["401"]:
        check(TestClient(app).request(method, address(path)), 401, (method, path))


def test_403_is_for_keys_that_only_read(documented: Documented, app: FastAPI) -> None:
    reader = client_of(app, "default", "read")
    for method, path in documented["403"]:
        check(reader.request(method, address(path)), 403, (method, path))


def test_404_is_for_what_is_not_there(documented: Documented, admin: TestClient) -> None:
    for method, path in documented["404"]:
        form = {FORMS[path]: ("a", b"x")} if path in FORMS else None
        answer = admin.request(method, address(path), json=BODIES.get(path), files=form)
        check(answer, 404, (method, path))
        assert answer.json()["error"]["code"] != "unknown_url"


def test_409_is_for_a_request_whose_first_attempt_is_at_work(
    documented: Documented, served: Context, admin: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "WAIT_S", -1.0)
    project = a_project(served.database)
    for number, (method, path) in enumerate(documented["409"]):
        first = (b"form",) if path in FORMS else ()  # whose content is compared once it has been read
        request = hashlib.sha256(b"\0".join((*first, address(path).encode(), b"", b""))).hexdigest()
        with served.database.write() as session:
            idempotency_records.claim(session, project, f"k{number}", request=request, owner="first", lease_s=60)
        form = {FORMS[path]: ("a", b"x")} if path in FORMS else None
        answer = admin.request(method, address(path), files=form, headers={"Idempotency-Key": f"k{number}"})
        check(answer, 409, (method, path))


def test_413_is_for_bodies_over_the_limit(documented: Documented, served: Context, admin: TestClient) -> None:
    upload = admin.post("/v1/uploads", json=ANNOUNCED).json()["id"]
    limits = dict.fromkeys(("max_body_bytes", "max_file_bytes", "max_part_bytes"), LONG)
    strict = TestClient(create_app(served.settings.model_copy(update=limits)), headers=dict(admin.headers))
    for method, path in documented["413"]:
        there = path.replace("{upload_id}", upload)
        if path in FORMS:
            form = {FORMS[path]: ("a", b"x" * 2 * LONG)}
            answer = strict.post(there, files=form, data={"purpose": "fine-tune"} if path == "/v1/files" else {})
        else:
            answer = strict.request(method, address(path), content=b" " * 2 * LONG)
        check(answer, 413, (method, path))


def one_job_and_one_question(served: Context) -> dict[Operation, tuple[str, dict[str, Any] | None]]:
    """As much as the settings allow at once; and, for each call that has such a limit, a request for more."""
    project = a_project(served.database)
    a_base_model(served.database)
    job, file = a_job(served.database, project), a_file(served, project)
    receiver = Consumer(served.settings.broker_url, "busy")
    receiver.beat()
    asyncio.run(_submit(served.settings, a_request("waits", project)))
    jobs, stage = "/v1/fine_tuning/jobs", {"name": "a", "training_file": file}
    return {
        ("POST", jobs): (jobs, {"model": "tiny", "training_file": file}),
        ("POST", "/v1/fine_tuning/pipelines"): ("/v1/fine_tuning/pipelines", {"model": "tiny", "stages": [stage]}),
        ("GET", f"{jobs}/{{job_id}}/events"): (f"{jobs}/{job}/events?stream=true", None),
        ("POST", "/v1/chat/completions"): ("/v1/chat/completions", CHAT | {"model": "tiny"}),
        ("POST", "/v1/completions"): ("/v1/completions", TEXT | {"model": "tiny"}),
    }


async def _submit(settings: Settings, letter: SampleJob) -> None:
    async with Producer(settings.broker_url) as sender:
        await sender.submit(letter, timeout_s=60, limit=1)


def test_429_is_for_more_than_is_allowed_at_once(documented: Documented, served: Context, admin: TestClient) -> None:
    more = one_job_and_one_question(served)
    for (method, path), (there, body) in more.items():
        check(admin.request(method, there, json=body), 429, (method, path))
    asyncio.run(_crowd(served))
    for method, path in set(documented["429"]) - more.keys() - COROUTINES:
        asked = (BODIES | FOR_CHILDREN).get(path)
        check(admin.request(method, address(path), json=asked), 429, (method, path))


COROUTINES = {
    ("GET", "/v1/health"),
    ("POST", "/v1/evals"),
    ("POST", "/v1/webhook_endpoints/{webhook_id}/test"),
    ("POST", "/v1/fine_tuning/alpha/graders/validate"),
}
"""They hold no thread while they wait, and take no turns."""
RECIPE = {"model": "tiny", "training_file": "file-none"}
CHECK = {"type": "string_check", "name": "a", "input": "a", "reference": "a", "operation": "eq"}
FOR_CHILDREN = {
    "/v1/fine_tuning/previews": RECIPE,
    "/v1/fine_tuning/estimates": RECIPE,
    "/v1/fine_tuning/alpha/graders/run": {"grader": CHECK, "model_sample": "a"},
}


async def _crowd(served: Context) -> None:
    """This project's turns are all taken, and as many of its requests wait as may."""
    project, settings = a_project(served.database), served.settings
    for _ in range(settings.requests_at_once + settings.requests_waiting):
        served.requests._enter(project)
    for _ in range(PROJECT_UPLOADS + settings.requests_waiting):
        served.uploads._enter(project)
    for _ in range(1 + settings.preview_waiting):
        served.previews._turns._enter(project)


def test_429_is_for_asking_too_often(documented: Documented, served: Context, admin: TestClient) -> None:
    rarely = create_app(served.settings.model_copy(update={"requests_per_second": 0.001}))
    client = TestClient(rarely, headers=dict(admin.headers))
    assert client.get("/v1/models").status_code == 200
    for method, path in documented["429"]:
        answer = client.request(method, address(path))
        check(answer, 429, (method, path))
        assert 0 < int(answer.headers["retry-after"]) <= 1000


def test_408_is_for_bodies_that_do_not_come(
    documented: Documented, app: FastAPI, admin: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "BODY_S", 0.01)
    monkeypatch.setattr(middleware, "SILENCE_S", 0.01)
    upload = admin.post("/v1/uploads", json=ANNOUNCED).json()["id"]
    for method, path in documented["408"]:
        there = path.replace("{upload_id}", upload) if path in FORMS else address(path)
        status, body = asyncio.run(_without_body(app, method, there, admin.headers["authorization"]))
        assert (status, json.loads(body)["error"]["code"]) == (408, "request_timeout"), path


async def _without_body(app: FastAPI, method: str, path: str, key: str) -> tuple[int, bytes]:
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    is_form = STREAMED.fullmatch(path) is not None
    content_type = b"multipart/form-data; boundary=x" if is_form else b"application/json"
    headers = [(b"authorization", key.encode()), (b"content-type", content_type)]
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
    await app({**scope, "headers": headers, "http_version": "1.1", "scheme": "http", "root_path": ""}, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def test_500_is_for_samplers_that_fail(documented: Documented, served: Context, admin: TestClient) -> None:
    bodies: dict[str, dict[str, Any]] = {"/v1/chat/completions": CHAT, "/v1/completions": TEXT}
    a_base_model(served.database)
    with sampler(served.settings, ends(type="failed", message=None, reason="internal_error")):
        for method, path in documented["500"]:
            check(admin.request(method, path, json=bodies[path] | {"model": "tiny"}), 500, (method, path))


def test_503_is_for_a_database_that_is_away(documented: Documented, admin: TestClient, tmp_path: Path) -> None:
    away = Settings(data_dir=tmp_path, database_url="postgresql://nobody@127.0.0.1:1/none")
    client = TestClient(create_app(away), headers=dict(admin.headers))
    for method, path in documented["503"]:
        check(client.request(method, address(path)), 503, (method, path))


def test_the_document_is_made_once_and_not_on_the_event_loop(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def openapi(_: FastAPI) -> dict[str, object]:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        made.append(True)
        return {"paths": {}}

    monkeypatch.setattr(type(app), "openapi", openapi)
    client = TestClient(app)
    assert [client.get("/openapi.json").json() for _ in range(2)] == [{"paths": {}}] * 2
    assert made == [True]
