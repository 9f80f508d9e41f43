"""A project's own keys: their rights, their secrets, and whose they are."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import update

from api.context import Context
from api.records import keys as records
from api.records.base import db_now
from api.records.idempotency import IdempotentRequest
from api.records.keys import Key
from api.services import keys
from tests.api.conftest import client_of
from tests.end_to_end.jobs import wait_until


def create(client: TestClient, **fields: Any) -> Any:
    return client.post("/v1/keys", json={"name": "robot", **fields})


def with_key(app: FastAPI, value: str) -> TestClient:
    return TestClient(app, headers={"Authorization": f"Bearer {value}"})


def test_a_key_is_shown_once_works_and_stops_when_revoked(app: FastAPI, client: TestClient) -> None:
    made = create(client, scope="read").json()
    robot = with_key(app, made["value"])
    assert robot.get("/v1/keys").status_code == 200
    assert robot.get("/v1/files").status_code == 200
    listed = client.get("/v1/keys").json()["data"]
    assert [(key["name"], key["current"]) for key in listed] == [("robot", False), ("test", True)]
    assert made["value"].startswith(listed[0]["redacted_value"].rstrip("…"))
    assert all("value" not in key for key in listed)
    deleted = client.delete(f"/v1/keys/{made['id']}").json()
    assert deleted == {"id": made["id"], "object": "api_key", "deleted": True}
    assert robot.get("/v1/files").status_code == 401
    assert client.get("/v1/keys").json()["data"][0]["revoked_at"] is not None
    assert client.delete(f"/v1/keys/{made['id']}").status_code == 404


def test_the_keys_of_another_project_are_neither_seen_nor_revoked(
    client: TestClient, other_project: TestClient
) -> None:
    made = create(client).json()
    assert [key["name"] for key in other_project.get("/v1/keys").json()["data"]] == ["test"]
    assert other_project.delete(f"/v1/keys/{made['id']}").status_code == 404
    assert other_project.get("/v1/keys", params={"after": made["id"]}).status_code == 400
    assert [key["revoked_at"] for key in client.get("/v1/keys").json()["data"]] == [None, None]


def test_a_key_that_only_reads_changes_no_key(app: FastAPI, client: TestClient) -> None:
    reader = client_of(app, "default", "read")
    own = next(key["id"] for key in reader.get("/v1/keys").json()["data"] if key["current"])
    assert [create(reader, scope="read").status_code, reader.delete(f"/v1/keys/{own}").status_code] == [403, 403]


def test_no_key_gives_or_takes_more_rights_than_it_has(app: FastAPI, client: TestClient) -> None:
    admin = client_of(app, "default", "admin")
    refused = create(client, scope="admin")
    assert (refused.status_code, "scope 'write'" in refused.json()["error"]["message"]) == (403, True)
    made = create(admin, scope="admin").json()
    assert client.delete(f"/v1/keys/{made['id']}").status_code == 403
    assert create(client, scope="write").json()["scope"] == "write"


def test_a_key_creates_none_that_outlives_it(app: FastAPI, served: Context) -> None:
    _, plain = keys.create(served, project="default", name="hour", scope="admin", expires_in_s=3600)
    hour = with_key(app, plain)
    for longer in ({}, {"expires_in_seconds": 7200}):
        refused = create(hour, **longer)
        assert (refused.status_code, refused.json()["error"]["param"]) == (403, "expires_in_seconds")
    made = create(hour, expires_in_seconds=600).json()
    assert made["expires_at"] - made["created_at"] == 600


def test_a_secret_is_not_kept_for_a_repeated_request(client: TestClient, served: Context) -> None:
    refused = client.post("/v1/keys", json={"name": "robot"}, headers={"Idempotency-Key": "once"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "idempotency_key_not_accepted")
    with served.database.read() as session:
        assert session.query(IdempotentRequest).count() == 0


def test_a_project_has_a_hundred_live_keys(
    client: TestClient, served: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "MAX_KEYS", 2)
    first = create(client).json()
    assert "revoke one" in create(client).json()["error"]["message"]
    with served.database.write() as session:
        session.execute(update(Key).where(Key.id == first["id"]).values(expires_at=1.0))
    assert create(client).status_code == 200


@pytest.mark.parametrize("fields", [{"name": ""}, {"scope": "root"}, {"expires_in_seconds": 1}, {"project": "other"}])
def test_a_wrong_field_is_named(client: TestClient, fields: dict[str, Any]) -> None:
    refused = create(client, **fields)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, next(iter(fields)))


def test_the_last_use_of_a_key_is_recorded_once_in_five_minutes(app: FastAPI, client: TestClient) -> None:
    made = create(client, scope="read").json()
    assert made["last_used_at"] is None
    database = app.state.context.database

    def last_use() -> float | None:
        with database.read() as session:
            return session.get_one(Key, made["id"]).last_used_at

    robot = with_key(app, made["value"])
    assert robot.get("/v1/files").status_code == 200
    wait_until(lambda: last_use() is not None, timeout_s=10)  # recorded beside the request
    first = last_use()
    assert robot.get("/v1/files").status_code == 200
    assert last_use() == first
    assert client.get("/v1/keys").json()["data"][0]["last_used_at"] == int(first or 0)


def test_a_key_that_others_used_is_due_by_the_database(served: Context) -> None:
    uses = keys.LastUses(served.database)
    assert not uses.is_due("key_1", idle_s=keys.RECORD_S / 2)
    assert [uses.is_due("key_1", idle_s) for idle_s in (None, None, 2 * keys.RECORD_S)] == [True, False, False]
    assert uses.is_due("key_2", idle_s=2 * keys.RECORD_S)


def test_concurrent_renewals_make_one_local_key(served: Context) -> None:
    keys.ensure_local(served, "http://127.0.0.1:8000/v1")
    with served.database.write() as session:
        session.execute(update(Key).values(revoked_at=db_now()))
    with ThreadPoolExecutor(6) as pool:
        renewed = list(pool.map(lambda _: keys.renew_local(served), range(6)))
    assert sorted(renewed) == [False] * 5 + [True]
    plain = json.loads(served.settings.credentials_file.read_text())["api_key"]
    with served.database.read() as session:
        assert records.find_valid(session, plain) is not None
