"""What one project may hold: each limit, from its far side, on every database, and for requests at once."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient

from api.context import Context
from api.errors import TooManyRequests
from api.main import create_app
from api.records import jobs as job_records
from api.records import pages
from api.services import project_limits
from api.services.project_limits import RequestRate
from tests.api.conftest import client_of
from tests.api.http.test_errors import error_of
from tests.api.routes.test_files import upload
from tests.factories import a_base_model, a_file, a_job, a_project


def limited(served: Context, **limits: Any) -> TestClient:
    return client_of(create_app(served.settings.model_copy(update=limits)), "default")


def refused(answer: Any, code: str) -> None:
    assert answer.status_code == 429, answer.text
    assert error_of(answer)["code"] == code


def test_uploads_that_are_not_completed_are_counted(served: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project_limits, "MAX_UPLOADS", 2)
    client = limited(served)
    announced = {"filename": "a", "purpose": "fine-tune", "mime_type": "text/jsonl", "bytes": 9}
    first, _ = (client.post("/v1/uploads", json=announced).json()["id"] for _ in range(2))
    assert client.post(f"/v1/uploads/{first}/cancel").status_code == 200
    refused(client.post("/v1/uploads", json=announced), "too_many_uploads")


def test_files_are_counted_and_their_deletion_makes_room(served: Context) -> None:
    client = limited(served, max_project_files=2)
    first, second = (upload(client).json()["id"] for _ in range(2))
    refused(upload(client), "too_many_files")
    assert {each["id"] for each in client.get("/v1/files").json()["data"]} == {first, second}
    client.delete(f"/v1/files/{first}")
    assert upload(client).status_code == 200


def test_stored_bytes_are_counted_with_parts_and_announcements(served: Context) -> None:
    client = limited(served, max_project_bytes=1000)
    announced = {"filename": "a", "purpose": "fine-tune", "mime_type": "text/jsonl", "bytes": 900}
    one = client.post("/v1/uploads", json=announced).json()["id"]
    assert client.post(f"/v1/uploads/{one}/parts", files={"data": ("a", b"x" * 900)}).status_code == 200
    refused(upload(client, b"{}\n" * 100), "storage_quota_exceeded")
    refused(client.post("/v1/uploads", json=announced), "storage_quota_exceeded")
    client.post(f"/v1/uploads/{one}/cancel")
    assert upload(client, b"{}\n" * 100).status_code == 200


@pytest.mark.parametrize("kind", ["jobs", "pipelines"])
def test_of_requests_at_once_only_as_many_as_fit_are_accepted(served: Context, kind: str) -> None:
    a_base_model(served.database)
    client = limited(served, max_active_jobs=3)
    file = a_file(served, a_project(served.database))
    names = itertools.count()

    def create(_: int) -> int:
        job = {"model": "tiny", "training_file": file, "suffix": f"n{next(names)}"}
        stages = [{"name": "a", "training_file": file}]
        body = job if kind == "jobs" else {"model": "tiny", "stages": stages}
        return client.post(f"/v1/fine_tuning/{kind}", json=body).status_code

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(create, range(8)))
    assert sorted(answers) == [200] * 3 + [429] * 5


def test_answers_for_idempotency_keys_have_a_budget(served: Context) -> None:
    client = limited(served, max_project_answer_bytes=1500)
    announced = {"filename": "a", "purpose": "fine-tune", "mime_type": "text/jsonl", "bytes": 900}
    keys = (f"key-{number}" for number in itertools.count())
    answers = [client.post("/v1/uploads", json=announced, headers={"Idempotency-Key": next(keys)}) for _ in range(3)]
    assert answers[0].status_code == 200
    refused(answers[-1], "too_many_idempotency_keys")
    assert client.post("/v1/uploads", json=announced).status_code == 200
    again = client.post("/v1/uploads", json=announced, headers={"Idempotency-Key": "key-0"})
    assert (again.status_code, again.json()) == (200, answers[0].json())


def test_keys_that_never_had_an_answer_count_as_well(served: Context) -> None:
    client = limited(served, max_project_answer_bytes=1500, max_project_bytes=1)
    announced = {"filename": "a", "purpose": "fine-tune", "mime_type": "text/jsonl", "bytes": 900}
    for number in range(4):
        answer = client.post("/v1/uploads", json=announced, headers={"Idempotency-Key": f"key-{number}"})
        refused(answer, "storage_quota_exceeded" if number < 2 else "too_many_idempotency_keys")


def test_job_description_is_at_most_64_kib(served: Context) -> None:
    a_base_model(served.database)
    client, file = limited(served), a_file(served, a_project(served.database))
    grader = {"type": "string_check", "name": "g", "operation": "eq", "input": "x" * 65_500, "reference": "y"}
    method = {"type": "reinforcement", "reinforcement": {"grader": grader}}
    answer = client.post("/v1/fine_tuning/jobs", json={"model": "tiny", "training_file": file, "method": method})
    assert answer.status_code == 400
    assert error_of(answer)["code"] == "recipe_too_large"
    assert "`method`" in error_of(answer)["message"]


def test_page_of_large_rows_ends_early_and_goes_on_after_its_last(
    served: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "MAX_BYTES", 20_000)
    project = a_project(served.database)
    made = {a_job(served.database, project) for _ in range(7)}
    with served.database.write() as session:
        for job in job_records.with_ids(session, project, list(made)):
            job.recipe = job.recipe | {"metadata": {"k": "x" * 9000}}
    client = limited(served)
    first = client.get("/v1/fine_tuning/jobs", params={"limit": 100}).json()
    assert 0 < len(first["data"]) < 7
    assert first["has_more"]
    caller = openai.OpenAI(api_key="x", base_url="http://testserver/v1", http_client=client)
    caller.api_key = client.headers["authorization"].removeprefix("Bearer ")
    assert {job.id for job in caller.fine_tuning.jobs.list(limit=100)} == made


def test_rate_is_a_projects_own_and_comes_back() -> None:
    rate = RequestRate(10)
    for _ in range(30):
        rate.take("one", now=100.0)
    with pytest.raises(TooManyRequests) as refusal:
        rate.take("one", now=100.0)
    assert refusal.value.headers == {"retry-after": "1", "retry-after-ms": "100"}
    rate.take("two", now=100.0)
    rate.take("one", now=100.11)
