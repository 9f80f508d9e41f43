from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import update

from api.context import Context
from api.records import scans
from api.records.files import File
from tests.api.conftest import client_of
from tests.factories import a_base_model


def upload(client: TestClient, content: bytes = b'{"text": "a"}\n', **form: str):
    return client.post("/v1/files", files={"file": ("rows.jsonl", content)}, data={"purpose": "fine-tune"} | form)


def stored_objects(context: Context) -> list[Path]:
    return [path for path in Path(context.settings.storage).rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [("bytes=5-", 5, 19), ("bytes=5-9", 5, 9), ("bytes=5-99", 5, 19), ("bytes=-3", 17, 19), ("bytes=-99", 0, 19)],
)
def test_a_range_is_one_part_of_the_content(client: TestClient, header: str, first: int, last: int) -> None:
    content = b'{"text": "abcdefg"}\n'
    file = upload(client, content).json()["id"]
    answer = client.get(f"/v1/files/{file}/content", headers={"range": header})
    assert answer.content == content[first : last + 1]
    assert answer.headers["content-length"] == str(last - first + 1)
    whole = last - first + 1 == len(content)
    assert (answer.status_code, answer.headers.get("content-range")) == (
        (200, None) if whole else (206, f"bytes {first}-{last}/20")
    )


@pytest.mark.parametrize("header", ["bytes=9-5", "bytes=-", "bytes=a-b", "lines=1-2", "0-5"])
def test_malformed_ranges_are_ignored(client: TestClient, header: str) -> None:
    file = upload(client).json()["id"]
    answer = client.get(f"/v1/files/{file}/content", headers={"range": header})
    assert (answer.status_code, answer.content) == (200, b'{"text": "a"}\n')
    assert answer.headers["accept-ranges"] == "bytes"
    conditional = {"range": "bytes=3-", "if-range": '"etag"'}
    assert client.get(f"/v1/files/{file}/content", headers=conditional).status_code == 200


@pytest.mark.parametrize("header", ["bytes=14-", "bytes=99-100", "bytes=-0", "bytes=0-1,4-5"])
def test_a_range_after_the_last_byte_and_several_ranges_are_a_416(client: TestClient, header: str) -> None:
    file = upload(client).json()["id"]
    answer = client.get(f"/v1/files/{file}/content", headers={"range": header})
    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */14")
    assert answer.json()["error"]["code"] == "range_not_satisfiable"


def test_a_file_comes_back_as_it_was_sent(client: TestClient) -> None:
    content = bytes(range(256)) * 40_000
    file = upload(client, content).json()
    assert (file["bytes"], file["purpose"], file["status"]) == (len(content), "fine-tune", "processed")
    assert client.get(f"/v1/files/{file['id']}/content").content == content
    assert client.get(f"/v1/files/{file['id']}").json() == file


@pytest.mark.parametrize("order", [("purpose", "file"), ("file", "purpose")])
def test_the_fields_may_come_in_any_order(client: TestClient, order: tuple[str, str]) -> None:
    parts = {
        "purpose": b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n',
        "file": b'--b\r\ncontent-disposition: form-data; name="file"; filename="r.jsonl"\r\n\r\n{}\n\r\n',
    }
    body = b"".join(parts[name] for name in order) + b"--b--\r\n"
    answer = client.post("/v1/files", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["bytes"] == 3


def test_lists_are_paged_newest_first_or_oldest_first(client: TestClient) -> None:
    ids = [upload(client).json()["id"] for _ in range(3)]
    first = client.get("/v1/files", params={"limit": 2}).json()
    assert ([file["id"] for file in first["data"]], first["has_more"]) == ([ids[2], ids[1]], True)
    rest = client.get("/v1/files", params={"after": first["last_id"]}).json()
    assert ([file["id"] for file in rest["data"]], rest["has_more"]) == ([ids[0]], False)
    upwards = client.get("/v1/files", params={"order": "asc", "after": ids[0], "purpose": "fine-tune"}).json()
    assert [file["id"] for file in upwards["data"]] == ids[1:]


def test_a_file_that_has_expired_is_gone_from_every_call(client: TestClient, served: Context) -> None:
    form: dict[str, Any] = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = upload(client, **form).json()
    assert file["expires_at"] == pytest.approx(file["created_at"] + 3600, abs=1)
    with served.database.write() as session:
        session.execute(update(File).values(expires_at=File.created_at))
    a_base_model(served.database)
    path = f"/v1/files/{file['id']}"
    assert [client.get(path).status_code, client.get(f"{path}/content").status_code] == [404, 404]
    assert client.delete(path).status_code == 404
    assert client.get("/v1/files").json()["data"] == []
    refused = client.post("/v1/fine_tuning/jobs", json={"model": "tiny", "training_file": file["id"]})
    assert refused.json()["error"]["code"] == "file_not_found"


@pytest.mark.parametrize(
    ("content", "form", "param"),
    [
        (b"x", {"purpose": "assistants"}, "purpose"),
        (b"x", {"expires_after[anchor]": "created_at"}, "expires_after[seconds]"),
        (b"x", {"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}, "expires_after[anchor]"),
        (b"x", {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3599"}, "expires_after[seconds]"),
        (b"x", {"expires_after[anchor]": "created_at", "expires_after[seconds]": "soon"}, "expires_after[seconds]"),
        (b"x", {"expires_after": "3600"}, "expires_after"),
        (b"", {}, "file"),
    ],
)
def test_what_is_refused_leaves_nothing_in_storage(
    client: TestClient, served: Context, content: bytes, form: dict[str, str], param: str
) -> None:
    answer = upload(client, content, **form)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    if "://" not in served.settings.storage:
        assert stored_objects(served) == []


def test_a_form_that_ends_in_the_middle_leaves_nothing(client: TestClient, served: Context) -> None:
    body = b'--b\r\ncontent-disposition: form-data; name="file"; filename="r"\r\n\r\n' + b"x" * 100_000
    answer = client.post("/v1/files", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 400
    assert client.get("/v1/files").json()["data"] == []


def test_a_boundary_that_is_too_long_is_a_400(client: TestClient) -> None:
    headers = {"content-type": f"multipart/form-data; boundary={'X' * 300}"}
    assert client.post("/v1/files", content=b"--X", headers=headers).status_code == 400


def test_a_file_over_the_limit_is_cut_off(settings, client_for_limit: TestClient) -> None:
    answer = upload(client_for_limit, b"x" * 2_000_000)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert client_for_limit.get("/v1/files").json()["data"] == []


@pytest.fixture
def client_for_limit(settings) -> TestClient:
    from api.main import create_app  # noqa: PLC0415

    return client_of(create_app(settings.model_copy(update={"max_file_bytes": 1_000_000})), "default")


@pytest.mark.parametrize("name", ["../../etc/passwd", "a\r\nb", "\x1b[31mred", "名前.jsonl", "x" * 600, "  "])
def test_a_name_is_a_label_and_never_a_path(client: TestClient, name: str) -> None:
    answer = client.post("/v1/files", files={"file": (name, b"{}\n")}, data={"purpose": "fine-tune"})
    assert answer.status_code == 200
    told = answer.json()["filename"]
    assert told.isprintable()
    assert len(told) <= 255
    assert client.get(f"/v1/files/{answer.json()['id']}/content").content == b"{}\n"


def test_a_file_that_a_job_needs_stays_until_the_job_has_ended(client: TestClient, served: Context) -> None:
    a_base_model(served.database)
    file_id = upload(client).json()["id"]
    job = client.post("/v1/fine_tuning/jobs", json={"model": "tiny", "training_file": file_id}).json()
    refused = client.delete(f"/v1/files/{file_id}")
    assert refused.status_code == 400
    assert job["id"] in refused.json()["error"]["message"]
    client.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel")
    assert client.delete(f"/v1/files/{file_id}").json() == {"id": file_id, "object": "file", "deleted": True}
    assert client.get(f"/v1/files/{file_id}/content").status_code == 404


def test_a_key_that_may_only_read_reads(app: FastAPI, client: TestClient) -> None:
    file_id = upload(client).json()["id"]
    reader = client_of(app, "default", scope="read")
    assert reader.get(f"/v1/files/{file_id}").status_code == 200
    assert upload(reader).status_code == 403
    assert reader.delete(f"/v1/files/{file_id}").status_code == 403


def test_an_uploaded_file_waits_for_its_scan_and_is_processed(client: TestClient) -> None:
    file = upload(client).json()
    assert (file["status"], file["scan"]["status"]) == ("processed", "pending")


def test_what_a_scan_found_is_shown_and_an_unreadable_file_is_in_error(client: TestClient, served: Context) -> None:
    file_id = upload(client).json()["id"]
    with served.database.write() as session:
        claim = scans.claim(session, lease_s=60)
        assert claim is not None
        scans.finish(session, claim, "failed", {"error": "The file is a PDF document."})
    file = client.get(f"/v1/files/{file_id}").json()
    assert (file["status"], file["status_details"]) == ("error", "The file is a PDF document.")
    assert file["scan"]["status"] == "failed"


def finding(line: int | None, code: str, severity: str) -> dict[str, object]:
    return {"line": line, "code": code, "severity": severity, "message": f"Example {line} {code}"}


def test_a_report_has_one_entry_for_each_kind_of_problem(
    client: TestClient, other_project: TestClient, served: Context
) -> None:
    file_id = upload(client).json()["id"]
    assert client.get(f"/v1/files/{file_id}/report").json()["status"] == "pending"
    found = [
        *(finding(line, "duplicate", "warning") for line in range(3, 13)),
        finding(2, "invalid_json", "error"),
        finding(None, "one_label", "warning"),
    ]
    counts = {"duplicate": 40, "invalid_json": 1, "one_label": 1}
    scan = {"rows": 50, "format": "chat", "container": "jsonl", "findings": found, "finding_counts": counts}
    excerpts = [{"line": 2, "text": '{"messages": [', "cut": False}]
    with served.database.write() as session:
        claim = scans.claim(session, lease_s=60)
        assert claim is not None
        scans.finish(session, claim, "done", {**scan, "excerpts": excerpts, "error": None})
    report = client.get(f"/v1/files/{file_id}/report").json()
    assert [report[name] for name in ("status", "rows", "errors", "warnings")] == ["done", 50, 1, 41]
    kinds = [(each["severity"], each["code"], each["count"], each["lines"]) for each in report["findings"]]
    assert kinds == [
        ("error", "invalid_json", 1, [2]),
        ("warning", "duplicate", 40, [*range(3, 13)]),
        ("warning", "one_label", 1, []),
    ]
    examples = [(each["line"], each["text"]) for kind in report["findings"] for each in kind["examples"]]
    assert examples == [(2, '{"messages": ['), *((line, None) for line in range(3, 8)), (None, None)]
    assert other_project.get(f"/v1/files/{file_id}/report").status_code == 404


def test_a_file_is_found_by_the_hash_of_its_content(client: TestClient, other_project: TestClient) -> None:
    first, again, other = upload(client).json(), upload(client).json(), upload(client, b'{"text": "b"}\n').json()
    found = client.get("/v1/files", params={"sha256": first["sha256"]}).json()["data"]
    assert [file["id"] for file in found] == [again["id"], first["id"]]
    assert other["sha256"] != first["sha256"]
    assert other_project.get("/v1/files", params={"sha256": first["sha256"]}).json()["data"] == []
    assert client.get("/v1/files", params={"sha256": "x"}).status_code == 400
