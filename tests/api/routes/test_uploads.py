import hashlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from api.context import Context
from api.infra.storage import Storage, StorageUnavailable, StoredObject
from api.main import create_app
from api.records import uploads as upload_records
from api.records.base import db_now
from api.records.uploads import Upload
from api.services import files, upload_parts
from tests.api.conftest import client_of
from worker.supervisor.retention import expire_uploads

PIECES = (b'{"text": "one"}\n', b'{"text": "two"}\n' * 1000, b'{"text": "three"}\n')
WHOLE = b"".join(PIECES)


def begin(client: TestClient, **body: object):
    given = {"bytes": len(WHOLE), "filename": "rows.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"} | body
    return client.post("/v1/uploads", json=given)


def send(client: TestClient, upload_id: str, piece: bytes):
    return client.post(f"/v1/uploads/{upload_id}/parts", files={"data": ("upload", piece)})


def complete(client: TestClient, upload_id: str, part_ids: list[str], **body: str):
    return client.post(f"/v1/uploads/{upload_id}/complete", json={"part_ids": part_ids} | body)


@pytest.fixture
def pending(client: TestClient) -> str:
    return str(begin(client).json()["id"])


@pytest.fixture
def part_ids(client: TestClient, pending: str) -> list[str]:
    """All parts of the file in its order; they arrived in another."""
    sent = {index: send(client, pending, PIECES[index]).json()["id"] for index in (2, 0, 1)}
    return [sent[index] for index in range(3)]


def test_a_storage_that_refuses_deletions_changes_no_answer(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done is answered as done, and an upload's own error is not hidden."""

    def refuse(storage: Storage, keys: list[str]) -> None:
        raise StorageUnavailable(keys[0])

    monkeypatch.setattr(Storage, "delete", refuse)
    kept, given_up = (str(begin(client).json()["id"]) for _ in range(2))
    sent = [send(client, kept, piece).json()["id"] for piece in PIECES]
    send(client, given_up, PIECES[0])
    empty = send(client, kept, b"")
    assert (empty.status_code, empty.json()["error"]["param"]) == (400, "data")
    assert complete(client, kept, sent).json()["status"] == "completed"
    assert client.post(f"/v1/uploads/{given_up}/cancel").json()["status"] == "cancelled"


def test_the_parts_become_a_file_in_the_order_that_is_named(
    client: TestClient, pending: str, part_ids: list[str]
) -> None:
    md5 = hashlib.md5(WHOLE).hexdigest()
    done = complete(client, pending, part_ids, md5=f"{md5.upper()}\r\n").json()
    file = done["file"]
    assert (done["status"], file["bytes"], file["filename"]) == ("completed", len(WHOLE), "rows.jsonl")
    assert file["sha256"] == hashlib.sha256(WHOLE).hexdigest()
    assert client.get(f"/v1/files/{file['id']}").json() == file
    assert client.get(f"/v1/files/{file['id']}/content").content == WHOLE


def lose_the_reply(monkeypatch: pytest.MonkeyPatch, service: Any, insert: str) -> None:
    """The transaction that adds the row is committed, and its connection lost before the reply comes."""
    really = getattr(service, insert)

    def committed(*arguments: Any) -> None:
        really(*arguments)
        raise OperationalError("COMMIT", {}, psycopg.OperationalError("connection lost"), connection_invalidated=True)

    monkeypatch.setattr(service, insert, committed)


def test_file_whose_commit_was_not_answered_has_its_bytes(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    lose_the_reply(monkeypatch, files, "_insert")
    answer = client.post("/v1/files", files={"file": ("a.jsonl", WHOLE)}, data={"purpose": "fine-tune"})
    assert answer.status_code == 503
    [file] = client.get("/v1/files").json()["data"]
    assert client.get(f"/v1/files/{file['id']}/content").content == WHOLE


def test_part_whose_commit_was_not_answered_has_its_bytes(
    client: TestClient, pending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_the_reply(monkeypatch, upload_parts, "_insert_part")
    assert send(client, pending, WHOLE).status_code == 503
    file = complete(client, pending, _parts_of(client, pending)).json()["file"]
    assert client.get(f"/v1/files/{file['id']}/content").content == WHOLE


def _parts_of(client: TestClient, upload_id: str) -> list[str]:
    with client.app.state.context.database.read() as session:  # type: ignore[attr-defined]
        return [part.id for part in upload_records.parts_of(session, upload_id)]


def test_a_completion_that_is_sent_again_gets_the_same_answer(
    client: TestClient, pending: str, part_ids: list[str]
) -> None:
    first, again = (complete(client, pending, part_ids) for _ in range(2))
    assert first.json() == again.json()
    other = complete(client, pending, part_ids[::-1])
    assert (other.status_code, other.json()["error"]["code"]) == (400, "invalid_upload_state")
    assert len(client.get("/v1/files").json()["data"]) == 1


def test_each_part_extends_the_time_of_a_slow_upload(client: TestClient, served: Context, pending: str) -> None:
    with served.database.write() as session:
        session.execute(update(Upload).values(expires_at=db_now() + 60))
    send(client, pending, PIECES[0])
    with served.database.read() as session:
        left_s = session.scalar(select(Upload.expires_at - db_now()))
    assert left_s == pytest.approx(served.settings.upload_expires_s, abs=30)


def test_of_completions_at_once_one_wins(client: TestClient, pending: str, part_ids: list[str]) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: complete(client, pending, part_ids), range(8)))
    assert {answer.status_code for answer in answers} == {200}, [answer.text for answer in answers]
    assert len({answer.json()["file"]["id"] for answer in answers}) == 1
    (file,) = client.get("/v1/files").json()["data"]
    assert client.get(f"/v1/files/{file['id']}/content").content == WHOLE


def test_a_completion_that_was_begun_in_time_may_end_late(
    client: TestClient, served: Context, pending: str, part_ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = served.storage.write

    async def write_until_the_time_is_over(key: str, chunks: AsyncIterator[bytes]) -> StoredObject:
        with served.database.write() as session:
            session.execute(update(Upload).values(expires_at=db_now() - 1))
        expire_uploads(served)  # as every worker does, every few seconds
        return await write(key, chunks)

    monkeypatch.setattr(served.storage, "write", write_until_the_time_is_over)
    done = complete(client, pending, part_ids).json()
    assert (done["status"], done["file"]["bytes"]) == ("completed", len(WHOLE))


@pytest.mark.parametrize("md5", ["0" * 32, "not an md5"])
def test_a_wrong_md5_loses_nothing(client: TestClient, pending: str, part_ids: list[str], md5: str) -> None:
    refused = complete(client, pending, part_ids, md5=md5)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "md5")
    assert client.get("/v1/files").json()["data"] == []
    assert client.get(f"/v1/uploads/{pending}").json()["status"] == "pending"
    done = complete(client, pending, part_ids, md5=hashlib.md5(WHOLE).hexdigest())
    assert client.get(f"/v1/files/{done.json()['file']['id']}/content").content == WHOLE


def test_the_parts_must_be_known_differ_and_have_the_announced_bytes(
    client: TestClient, pending: str, part_ids: list[str]
) -> None:
    for wrong in (part_ids[:2], [*part_ids, "part_none"], [part_ids[0], *part_ids], []):
        refused = complete(client, pending, wrong)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "part_ids"), refused.text


def test_a_part_of_which_only_half_arrived_is_none(client: TestClient, pending: str, part_ids: list[str]) -> None:
    half = b'--b\r\ncontent-disposition: form-data; name="data"; filename="upload"\r\n\r\n' + b"x" * 10_000
    cut = client.post(
        f"/v1/uploads/{pending}/parts", content=half, headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert cut.status_code == 400
    assert complete(client, pending, part_ids).json()["status"] == "completed"


def test_a_cancelled_upload_takes_no_parts_and_is_not_completed(
    client: TestClient, pending: str, part_ids: list[str]
) -> None:
    for _ in range(2):
        assert client.post(f"/v1/uploads/{pending}/cancel").json()["status"] == "cancelled"
    for refused in (send(client, pending, b"x"), complete(client, pending, part_ids)):
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_upload_state")


def test_an_upload_whose_hour_is_over_has_expired(
    client: TestClient, served: Context, pending: str, part_ids: list[str]
) -> None:
    with served.database.write() as session:
        session.execute(update(Upload).values(expires_at=Upload.created_at))
    assert client.get(f"/v1/uploads/{pending}").json()["status"] == "expired"
    refused = [send(client, pending, b"x"), complete(client, pending, part_ids)]
    refused.append(client.post(f"/v1/uploads/{pending}/cancel"))
    assert [answer.status_code for answer in refused] == [400, 400, 400]
    assert "expired" in refused[0].json()["error"]["message"]


def test_the_file_may_expire_after_a_while(client: TestClient) -> None:
    upload = begin(client, bytes=1, expires_after={"anchor": "created_at", "seconds": 3600}).json()
    file = complete(client, upload["id"], [send(client, upload["id"], b"x").json()["id"]]).json()["file"]
    assert file["expires_at"] == pytest.approx(file["created_at"] + 3600, abs=1)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"bytes": 0}, "bytes"),
        ({"bytes": 10**12}, "bytes"),
        ({"purpose": "vision"}, "purpose"),
        ({"filename": ""}, "filename"),
        ({"mime_type": "a\nb"}, "mime_type"),
        ({"expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after.seconds"),
        ({"part_size": 1}, "part_size"),
    ],
)
def test_what_cannot_be_announced_is_named(client: TestClient, body: dict[str, object], param: str) -> None:
    refused = begin(client, **body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_parts_are_limited_each_and_together(settings) -> None:
    limited = settings.model_copy(update={"max_part_bytes": 1000})
    client = client_of(create_app(limited), "default")
    upload_id = begin(client, bytes=500).json()["id"]
    assert send(client, upload_id, b"x" * 1001).status_code == 413
    sizes = [send(client, upload_id, b"x" * 1000).status_code for _ in range(3)]
    assert sizes == [200, 200, 400]


def test_uploads_are_their_projects_own(
    client: TestClient, other_project: TestClient, pending: str, part_ids: list[str]
) -> None:
    answers = [
        other_project.get(f"/v1/uploads/{pending}"),
        send(other_project, pending, b"x"),
        complete(other_project, pending, part_ids),
        other_project.post(f"/v1/uploads/{pending}/cancel"),
    ]
    assert [answer.status_code for answer in answers] == [404] * 4
    theirs = begin(other_project).json()["id"]
    assert complete(other_project, theirs, part_ids).status_code == 400


def test_a_key_that_may_only_read_sends_nothing(app: FastAPI, pending: str) -> None:
    reader = client_of(app, "default", scope="read")
    assert reader.get(f"/v1/uploads/{pending}").status_code == 200
    assert [begin(reader).status_code, send(reader, pending, b"x").status_code] == [403, 403]
