import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from api.context import Context
from api.http.form_digest import FormDigest
from api.records import idempotency
from api.records.base import db_now
from api.records.idempotency import IdempotentRequest
from api.records.jobs import Job
from tests.api.routes.test_files import upload
from tests.factories import a_base_model, a_project

JOBS = "/v1/fine_tuning/jobs"
FILES = "/v1/files"


@pytest.fixture
def body(client: TestClient, served: Context) -> dict[str, object]:
    a_base_model(served.database)
    return {"model": "tiny", "training_file": upload(client).json()["id"]}


def create(client: TestClient, body: dict[str, object], key: str = "k1", **headers: str):
    return client.post(JOBS, json=body, headers={"Idempotency-Key": key} | headers)


def count(client: TestClient) -> int:
    return len(client.get(JOBS).json()["data"])


def test_a_replay_gets_the_first_answer(client: TestClient, body: dict[str, object]) -> None:
    first, again = create(client, body), create(client, body)
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert count(client) == 1


def test_a_refused_request_runs_again(client: TestClient, served: Context, body: dict[str, object]) -> None:
    later = body | {"model": "later"}
    assert create(client, later).status_code == 400
    a_base_model(served.database, "later")
    assert create(client, later).status_code == 200
    assert create(client, later).headers["idempotent-replayed"] == "true"


def test_a_post_without_a_body_can_have_a_key(client: TestClient, body: dict[str, object]) -> None:
    job_id = create(client, body).json()["id"]
    first, again = (client.post(f"{JOBS}/{job_id}/cancel", headers={"Idempotency-Key": "cancel"}) for _ in range(2))
    assert (first.status_code, again.json()) == (200, first.json())


@pytest.mark.parametrize("other", [{"seed": 1}, {"suffix": "x"}])
def test_another_body_under_the_same_key_is_refused(
    client: TestClient, body: dict[str, object], other: dict[str, object]
) -> None:
    create(client, body)
    refused = create(client, body | other)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "idempotency_key_reused")
    elsewhere = client.post("/v1/uploads", json=body, headers={"Idempotency-Key": "k1"})
    assert elsewhere.json()["error"]["code"] == "idempotency_key_reused"
    assert count(client) == 1


def test_projects_do_not_share_keys(client: TestClient, other_project: TestClient, body: dict[str, object]) -> None:
    create(client, body)
    theirs = other_project.post("/v1/uploads", json={}, headers={"Idempotency-Key": "k1"})
    assert theirs.json()["error"]["code"] != "idempotency_key_reused"


def test_many_at_once_make_one_job(client: TestClient, body: dict[str, object]) -> None:
    start = threading.Barrier(6)

    def attempt(_: int):
        start.wait()
        return create(client, body)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(attempt, range(6)))
    assert {answer.content for answer in answers} == {answers[0].content}
    assert count(client) == 1


@pytest.mark.parametrize("made", [False, True])
def test_a_first_request_that_died_is_done_again_but_its_job_is_not_made_twice(
    client: TestClient, served: Context, body: dict[str, object], made: bool
) -> None:
    first = create(client, body).json() if made else None
    project_id = a_project(served.database)
    if made:
        with served.database.write() as session:
            session.execute(update(IdempotentRequest).values(status=None, claimed_until=db_now() - 1))
    second = create(client, body)
    assert second.status_code == 200
    assert count(client) == 1
    if first is not None:
        assert second.json()["id"] == first["id"]
    with served.database.read() as session:
        answered = session.get_one(IdempotentRequest, (project_id, "k1"))
    assert answered.status == 200


def test_only_so_many_wait_for_a_first_request(
    client: TestClient, served: Context, body: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.http.idempotency.MAX_WAITING", 0)
    monkeypatch.delattr("api.http.idempotency.Claim.take_over")  # waiting begins with it
    create(client, body)
    with served.database.write() as session:
        session.execute(update(IdempotentRequest).values(status=None, claimed_until=db_now() + 60))
    refused = create(client, body)
    assert (refused.status_code, refused.headers["retry-after"]) == (409, "2")


def test_a_key_is_forgotten_after_a_day(client: TestClient, served: Context, body: dict[str, object]) -> None:
    create(client, body)
    with served.database.write() as session:
        session.execute(update(IdempotentRequest).values(created_at=db_now() - idempotency.KEEP_S - 1))
    create(client, body)
    assert count(client) == 2


@pytest.mark.parametrize("key", ["", "x" * 256, "a\x7fb"])
def test_a_key_must_be_short_and_printable(client: TestClient, body: dict[str, object], key: str) -> None:
    assert create(client, body, key).status_code == 400


def send_file(client: TestClient, content: bytes, key: str = "k", **fields: str):
    data = {"purpose": "fine-tune"} | fields
    return client.post(FILES, files={"file": ("r", content)}, data=data, headers={"Idempotency-Key": key})


def test_a_file_sent_twice_is_there_once_though_each_form_has_its_own_boundary(client: TestClient) -> None:
    first, again = send_file(client, b"{}\n" * 100_000), send_file(client, b"{}\n" * 100_000)
    assert (first.status_code, again.json()) == (200, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    assert len(client.get(FILES).json()["data"]) == 1


def test_another_file_under_the_same_key_is_refused(client: TestClient) -> None:
    send_file(client, b"{}\n")
    refused = send_file(client, b"[]\n")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "idempotency_key_reused")


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_a_form_is_the_same_however_it_is_cut_and_bounded(size: int) -> None:
    def digest(boundary: bytes, size: int, content: bytes = b"abc-ab\n") -> str:
        form = FormDigest(f"multipart/form-data; boundary={boundary.decode()}", b"/v1/files")
        body = b"--%b\r\n\r\n%b\r\n--%b--\r\n" % (boundary, content, boundary)
        starts = range(0, len(body), size)
        messages = [
            {"type": "http.request", "body": body[start : start + size], "more_body": start != starts[-1]}
            for start in starts
        ]

        async def receive():
            return messages.pop(0)

        asyncio.run(form.drain(receive, 10_000))
        assert form.complete
        return form.hexdigest()

    assert digest(b"abcd", size) == digest(b"other-one", 1000)
    assert digest(b"abcd", size) != digest(b"abcd", size, b"abc-ac\n")


@pytest.mark.parametrize("path", ["/v1/files", "/v1/uploads/upload_x/parts", "/openai/files"])
def test_a_body_that_nobody_limits_is_not_read_for_a_key_whatever_it_says_that_it_is(
    client: TestClient, path: str
) -> None:
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    answer = client.post(path, content=b"{}", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_content_type")


def retry(client: TestClient, body: dict[str, object], count: str = "1"):
    return client.post(JOBS, json=body, headers={"x-stainless-retry-count": count})


def test_a_clients_retry_gets_the_job_already_made(client: TestClient, body: dict[str, object]) -> None:
    first = client.post(JOBS, json=body).json()
    assert retry(client, body).json()["id"] == first["id"]
    assert retry(client, body | {"hyperparameters": {}}).json()["id"] == first["id"]
    assert retry(client, body | {"seed": 3}).json()["id"] != first["id"]
    assert retry(client, body, "0").json()["id"] != first["id"]


def test_a_retry_long_after_makes_a_job_of_its_own(
    client: TestClient, served: Context, body: dict[str, object]
) -> None:
    first = client.post(JOBS, json=body).json()
    with served.database.write() as session:
        session.execute(update(Job).values(created_at=db_now() - served.settings.retried_create_s - 1))
    assert retry(client, body).json()["id"] != first["id"]


def test_a_retry_of_another_project_is_its_own(
    client: TestClient, other_project: TestClient, body: dict[str, object]
) -> None:
    client.post(JOBS, json=body)
    assert retry(other_project, body).status_code == 400  # the file is not theirs
