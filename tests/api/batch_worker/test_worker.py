"""Batches from upload to files, with a scripted sampler behind a real broker."""

import asyncio
import errno
import json
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.background import postponed
from api.background.postponed import Postponed
from api.batch_worker import item, results, validation
from api.batch_worker.validation import MAX_ERRORS, MAX_PARAM
from api.batch_worker.worker import BatchWorker
from api.context import Context
from api.errors import InsufficientStorage
from api.infra.storage import StorageUnavailable
from api.records import batch_items
from api.records.batch_items import QUEUE, BatchItem
from api.records.batches import Batch
from api.records.files import File
from api.records.item_queue import StaleWork
from tests.api.conftest import client_of
from tests.api.sampler import Script, ends, reasons, sampler, says
from tests.factories import a_base_model

SETTINGS = "embedded"

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "a"}]}


def line(name: str, body: Any = CHAT, **fields: Any) -> str:
    return json.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body} | fields)


def create(client: TestClient, *lines: str, **fields: Any) -> dict[str, Any]:
    content = "".join(f"{each}\n" for each in lines).encode()
    file = client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", content)}).json()
    body = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"} | fields
    answer: dict[str, Any] = client.post("/v1/batches", json=body).json()
    return answer


def work(served: Context, script: Script | None = None) -> list[str]:
    """Work until nothing is due. Return the ids of what the sampler was asked."""
    a_base_model(served.database)

    async def main() -> None:
        await BatchWorker(served).run_until_idle()

    if script is None:
        asyncio.run(main())
        return []
    with sampler(served.settings, script) as asked:
        asyncio.run(main())
    assert all(job.background for job in asked)
    return [job.id for job in asked]


def retrieve(client: TestClient, batch: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = client.get(f"/v1/batches/{batch['id']}").json()
    return answer


def rows_of(client: TestClient, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(text) for text in client.get(f"/v1/files/{file_id}/content").text.splitlines()]


def test_answers_and_errors_go_to_two_files(client: TestClient, served: Context) -> None:
    event_types = ["batch.completed"]
    hook = {"name": "hook", "url": "https://example.com/x", "event_types": event_types}
    webhook = client.post("/v1/webhook_endpoints", json=hook).json()
    batch = create(client, line("a"), line("bad", CHAT | {"temperature": 9}), "", line("b"), metadata={"k": "v"})
    assert (batch["status"], batch["request_counts"]["total"]) == ("validating", 0)
    assert len(work(served, says("x", "yz"))) == 2
    ended = retrieve(client, batch)
    assert (ended["status"], ended["metadata"], ended["model"]) == ("completed", {"k": "v"}, "tiny")
    assert ended["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert (ended["usage"]["input_tokens"], ended["usage"]["output_tokens"]) == (10, 6)
    answers = rows_of(client, ended["output_file_id"])
    assert [row["custom_id"] for row in answers] == ["a", "b"]
    assert answers[0]["response"]["body"]["choices"][0]["message"]["content"] == "xyz"
    (error,) = rows_of(client, ended["error_file_id"])
    assert (error["custom_id"], error["response"]["status_code"]) == ("bad", 400)
    assert error["response"]["body"]["error"]["param"] == "temperature"
    assert client.get(f"/v1/files/{ended['error_file_id']}").json()["purpose"] == "batch_output"
    deliveries = client.get(f"/v1/webhook_endpoints/{webhook['id']}/deliveries").json()["data"]
    assert [(each["event_type"], each["data"]) for each in deliveries] == [("batch.completed", {"id": batch["id"]})]
    with served.database.read() as session:
        assert not batch_items.has_unanswered(session, batch["id"])
        assert session.get(BatchItem, (batch["id"], 1)) is None, "the items end with their batch"


@pytest.mark.parametrize("requests", [1, 2, 3, 4])
def test_a_file_may_have_any_number_of_requests(
    client: TestClient, served: Context, monkeypatch: pytest.MonkeyPatch, requests: int
) -> None:
    monkeypatch.setattr(validation, "CHUNK", 2)
    batch = create(client, *(line(str(number)) for number in range(requests)))
    work(served, says("x"))
    ended = retrieve(client, batch)
    assert (ended["status"], ended["request_counts"]["completed"]) == ("completed", requests)


def test_reasoning_is_counted_apart(client: TestClient, served: Context) -> None:
    batch = create(client, line("a"), line("b"))
    work(served, reasons("Hm.", "x"))
    ended = retrieve(client, batch)
    assert ended["usage"]["output_tokens_details"] == {"reasoning_tokens": 4}
    message = rows_of(client, ended["output_file_id"])[0]["response"]["body"]["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("x", "Hm.")


BROKEN = [
    ("{", "invalid_json_line", None),
    ("[]", "invalid_json_line", None),
    (json.dumps({"method": "POST"}), "missing_required_parameter", "custom_id"),
    (line("a", method="GET"), "invalid_value", "method"),
    (line("a", url="/v1/completions"), "mismatched_url", "url"),
    (line("a", other=1), "invalid_value", "other"),
    (line("first"), "duplicate_custom_id", "custom_id"),
    (line("a\0"), "invalid_value", "custom_id"),
    (line("model", CHAT | {"model": "\0x"}), "invalid_value", "body.model"),
]


def test_invalid_lines_fail_the_batch_before_any_is_answered(client: TestClient, served: Context) -> None:
    batch = create(client, line("first"), *(text for text, _, _ in BROKEN))
    assert work(served, says("x")) == []
    ended = retrieve(client, batch)
    assert ended["status"] == "failed"
    assert ended["failed_at"] is not None
    found = [(error["line"], error["code"], error["param"]) for error in ended["errors"]["data"]]
    assert found == [(number, code, param) for number, (_, code, param) in enumerate(BROKEN, start=2)]


def test_a_batch_without_a_model_that_can_answer_fails(client: TestClient, served: Context) -> None:
    a_base_model(served.database, "reader", kind="encoder")
    nobody, reader = (line(name, CHAT | {"model": name}) for name in ("nobody", "reader"))
    failing, mixed = create(client, nobody, reader), create(client, nobody, line("a"))
    work(served, says("x"))
    failed = retrieve(client, failing)
    assert failed["status"] == "failed"
    found = [(error["line"], error["code"], error["param"]) for error in failed["errors"]["data"]]
    assert found == [(1, "model_not_found", "body.model"), (2, "model_not_supported", "body.model")]
    ended = retrieve(client, mixed)
    assert (ended["status"], ended["request_counts"]["failed"]) == ("completed", 1)


def test_requests_that_name_no_model_fail_one_by_one(client: TestClient, served: Context) -> None:
    batch = create(client, line("a", {"messages": CHAT["messages"]}), line("b", CHAT | {"model": None}))
    work(served, says("x"))
    ended = retrieve(client, batch)
    assert (ended["status"], ended["model"], ended["request_counts"]["failed"]) == ("completed", None, 2)


@pytest.mark.parametrize(
    ("lines", "limits", "code"),
    [
        ([""], {}, "empty_file"),
        (["{"] * (MAX_ERRORS + 1), {}, "invalid_json_line"),
        ([line("a", url="/v1/completions")] * MAX_ERRORS, {}, "mismatched_url"),  # two errors in most lines
        ([line("a"), line("b")], {"max_batch_requests": 1}, "too_many_requests"),
        ([line("a"), line("b")], {"max_project_batch_requests": 1}, "request_limit_exceeded"),
        ([line("a")], {"max_body_bytes": 32}, "request_too_large"),
    ],
)
def test_inputs_have_limits(
    client: TestClient, served: Context, lines: list[str], limits: dict[str, int], code: str
) -> None:
    batch = create(client, *lines)
    object.__setattr__(served, "settings", served.settings.model_copy(update=limits))
    work(served)
    errors = retrieve(client, batch)["errors"]["data"]
    assert errors[-1]["code"] == code
    assert len(errors) <= MAX_ERRORS


def test_the_name_of_a_wrong_field_is_cut(client: TestClient, served: Context) -> None:
    batch = create(client, line("a", **{"k" * 10_000: 1}))
    work(served)
    (error,) = retrieve(client, batch)["errors"]["data"]
    assert error["param"] == "k" * MAX_PARAM
    assert error["message"] == f"{error['param']}: Unknown field"


def test_what_a_dead_worker_held_is_answered_once(client: TestClient, served: Context) -> None:
    """It stored one answer, held two more requests, and left the rest."""
    names = [f"r{number}" for number in range(6)]
    batch = create(client, *map(line, names))
    validate_only(served)
    with served.database.write() as session:
        first = QUEUE.claim_item(session, "dead", 60)
        assert first is not None
        stored = batch_items.ItemResult(True, item._response(first, 200, "kept", {}))
        assert batch_items.finish(session, first, stored)
        for _ in range(2):
            QUEUE.claim_item(session, "dead", -1)
    asked = work(served, says("x"))
    rows = rows_of(client, retrieve(client, batch)["output_file_id"])
    assert [row["custom_id"] for row in rows] == names
    assert rows[0]["response"]["request_id"] == "kept"
    assert len(asked) == len(set(asked)) == 5


def validate_only(served: Context) -> None:
    a_base_model(served.database)

    async def main() -> None:
        assert await BatchWorker(served).work_once()

    asyncio.run(main())


def test_a_cancelled_batch_keeps_its_answers_and_names_the_rest(client: TestClient, served: Context) -> None:
    batch = create(client, line("a"), line("b"))
    validate_only(served)
    with served.database.write() as session:
        first = QUEUE.claim_item(session, "one", 60)
        assert first is not None
        batch_items.finish(session, first, batch_items.ItemResult(True, item._response(first, 200, "kept", {})))
        held = QUEUE.claim_item(session, "one", 60)
        assert held is not None
    assert client.post(f"/v1/batches/{batch['id']}/cancel").json()["status"] == "cancelling"
    assert work(served, says("x")) == []
    ended = client.post(f"/v1/batches/{batch['id']}/cancel").json()
    assert (ended["status"], ended["request_counts"]["completed"]) == ("cancelled", 1)
    assert [row["custom_id"] for row in rows_of(client, ended["output_file_id"])] == ["a"]
    assert [row["error"]["code"] for row in rows_of(client, ended["error_file_id"])] == ["batch_cancelled"]


def test_a_batch_that_is_lost_between_its_files_leaves_neither(
    client: TestClient, served: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    results_of = results._page

    def lost(context: Context, claim: Any, succeeded: bool, after: int) -> Any:
        if not succeeded:
            raise StaleWork(claim.work.id)
        return results_of(context, claim, succeeded, after)

    monkeypatch.setattr(results, "_page", lost)
    batch = create(client, line("a"), line("bad", CHAT | {"temperature": 9}))
    validate_only(served)
    with served.database.write() as session:
        first = QUEUE.claim_item(session, "one", 60)
        assert first is not None
        batch_items.finish(session, first, batch_items.ItemResult(True, item._response(first, 200, "kept", {})))
    assert client.post(f"/v1/batches/{batch['id']}/cancel").json()["status"] == "cancelling"
    with served.database.write() as session:
        claim = QUEUE.claim(session, 60)
    assert claim is not None
    with pytest.raises(StaleWork):
        asyncio.run(results.finalize(served, claim))
    keys = [stored.key for page in served.storage.list_objects("files") for stored in page]
    assert [key.rpartition("/")[2] for key in keys] == [batch["input_file_id"]]


def test_a_batch_ends_with_its_window(client: TestClient, served: Context) -> None:
    batch = create(client, line("a"))
    validate_only(served)
    with served.database.write() as session:
        row = session.get_one(Batch, batch["id"])
        row.expires_at = row.due_at = row.created_at
    work(served)
    ended = retrieve(client, batch)
    assert ended["status"] == "expired"
    assert ended["output_file_id"] is None
    assert [row["error"]["code"] for row in rows_of(client, ended["error_file_id"])] == ["batch_expired"]
    assert client.post(f"/v1/batches/{batch['id']}/cancel").json()["error"]["code"] == "invalid_batch_state"


def test_without_a_sampler_requests_wait(client: TestClient, served: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postponed, "OUTAGE_WAIT_S", 600.0)
    batch = create(client, *(line(str(number)) for number in range(20)))
    work(served)
    assert retrieve(client, batch)["request_counts"] == {"total": 20, "completed": 0, "failed": 0}
    with served.database.read() as session:
        items = [session.get_one(BatchItem, (batch["id"], number)) for number in range(1, 21)]
    assert {each.faults for each in items} == {0}
    claims = sum(each.fence for each in items)
    assert 1 <= claims <= served.settings.batch_requests, "the others are left in the queue"


def test_a_sampler_that_dies_of_a_request_ends_it_at_the_third_time(
    client: TestClient, served: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postponed, "FAULT_WAIT_S", 0.0)
    batch = create(client, line("a"))
    assert len(work(served, ends(type="lost"))) == 3
    (row,) = rows_of(client, retrieve(client, batch)["error_file_id"])
    assert row["response"]["status_code"] == 503
    assert row["response"]["body"]["error"]["code"] == "sampler_lost"


def test_a_request_that_raises_ends_and_an_outage_costs_it_nothing(
    client: TestClient, served: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = iter([StorageUnavailable("away"), *(KeyError("bug") for _ in range(postponed.MAX_FAULTS))])

    async def failing(*_: object) -> None:
        raise next(raised)

    monkeypatch.setattr(postponed, "FAULT_WAIT_S", 0.0)
    monkeypatch.setattr(postponed, "OUTAGE_WAIT_S", 0.0)
    monkeypatch.setattr(item, "_body", failing)
    batch = create(client, line("a"))
    work(served)
    (row,) = rows_of(client, retrieve(client, batch)["error_file_id"])
    assert row["response"]["body"]["error"]["code"] == "internal_error"
    assert next(raised, None) is None


def test_a_batch_is_its_projects_own(client: TestClient, other_project: TestClient, served: Context) -> None:
    batch = create(client, line("a"))
    assert other_project.get(f"/v1/batches/{batch['id']}").status_code == 404
    assert other_project.post(f"/v1/batches/{batch['id']}/cancel").status_code == 404
    assert other_project.get("/v1/batches").json()["data"] == []
    body = {"endpoint": "/v1/completions", "completion_window": "24h", "input_file_id": batch["input_file_id"]}
    assert other_project.post("/v1/batches", json=body).json()["error"]["code"] == "file_not_found"
    refused = client.delete(f"/v1/files/{batch['input_file_id']}").json()["error"]
    assert refused["code"] == "file_in_use"
    with served.database.write() as session:
        session.get_one(File, batch["input_file_id"]).purpose = "fine-tune"
    assert client.post("/v1/batches", json=body).json()["error"]["code"] == "invalid_file_purpose"


def test_a_clients_retry_gets_the_batch_that_it_has_created(client: TestClient) -> None:
    batch = create(client, line("a"))
    body = {name: batch[name] for name in ("input_file_id", "endpoint", "completion_window")}
    retry = client.post("/v1/batches", json=body, headers={"x-stainless-retry-count": "1"}).json()
    other = client.post("/v1/batches", json=body | {"metadata": {"a": "b"}}, headers={"x-stainless-retry-count": "1"})
    assert retry["id"] == batch["id"] != other.json()["id"]


def test_batches_are_listed_in_pages(client: TestClient, app: FastAPI) -> None:
    made = [create(client, line("a"))["id"] for _ in range(3)]
    first = client.get("/v1/batches?limit=2").json()
    rest = client.get(f"/v1/batches?limit=2&after={first['last_id']}").json()
    assert [batch["id"] for batch in first["data"] + rest["data"]] == made[::-1]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    reader = client_of(app, "default", "read")
    assert reader.post(f"/v1/batches/{made[0]}/cancel").status_code == 403


@pytest.mark.parametrize("error", [InsufficientStorage("full"), OSError(errno.EMFILE, "Too many open files")])
def test_a_full_disk_or_an_exhausted_machine_is_no_fault_of_an_item(served: Context, error: Exception) -> None:
    claim: Any = None  # nothing of it matters
    end = BatchWorker(served)._end_after(error, claim)
    assert isinstance(end, Postponed)
    assert (end.outage, end.fault) == (True, False)
