import io
import re
import tarfile
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from api.context import Context
from api.infra.artifacts import tar_size
from api.records.base import db_now
from api.records.files import File
from api.records.models import Checkpoint, Model
from api.spec.artifacts import Artifact
from api.spec.ids import new_id
from api.spec.lifecycle import JobStatus
from tests.factories import a_base_model, a_job, a_model, a_project

CONTENTS = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"w" * 2000}
NAME = "ft:org/tiny:attune:suffix:abcdefgh"


@pytest.fixture
def published(served: Context) -> str:
    """A job that has succeeded, its model and one checkpoint. Returns the job's id."""
    context, project = served, a_project(served.database)
    job_id = a_job(context.database, project, JobStatus.SUCCEEDED, fine_tuned_model=NAME)
    artifacts: list[Artifact] = []
    for name, content in CONTENTS.items():
        stored = context.storage.write_bytes(f"models/{job_id}/1/{name}", content)
        artifacts.append(
            {"name": name, "bytes": stored.bytes, "sha256": stored.sha256, "key": f"models/{job_id}/1/{name}"}
        )
    shared = {"project_id": project, "job_id": job_id, "artifacts": artifacts, "created_at": db_now()}
    with context.database.write() as session:
        session.add(Model(id=NAME, base_model="tiny", **shared))
        session.add(Checkpoint(id=new_id("ftckpt_"), model_id=f"{NAME}:ckpt-step-5", step=5, metrics={}, **shared))
        session.add(
            File(
                id="file-archive",
                project_id=project,
                filename="a.tar",
                purpose="fine-tune-results",
                bytes=tar_size(artifacts),
                model_id=NAME,
                created_at=db_now(),
            )
        )
    return job_id


def members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]


def test_the_adapter_is_the_same_by_each_of_its_doors(client: TestClient, published: str) -> None:
    archive = client.get(f"/v1/fine_tuning/jobs/{published}/adapter").content
    assert members(archive) == CONTENTS
    assert client.get("/v1/files/file-archive/content").content == archive
    assert client.get("/v1/files/file-archive").json()["bytes"] == len(archive)
    for name, content in CONTENTS.items():
        assert client.get(f"/v1/models/{NAME}/artifacts/{name}").content == content


@pytest.mark.parametrize("name", [NAME, NAME.replace("/", "%2F"), f"{NAME}:ckpt-step-5"])
def test_artifacts_are_listed_for_models_and_checkpoints(client: TestClient, published: str, name: str) -> None:
    listed = client.get(f"/v1/models/{name}/artifacts").json()["data"]
    assert {artifact["name"]: artifact["bytes"] for artifact in listed} == {k: len(v) for k, v in CONTENTS.items()}
    assert all(len(artifact["sha256"]) == 64 for artifact in listed)


def test_models_of_the_project_come_before_the_base_models(client: TestClient, served: Context, published: str) -> None:
    a_base_model(served.database)
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [NAME, "tiny"]
    assert client.get(f"/v1/models/{NAME.replace('/', '%2F')}").json()["owned_by"] == "attune"


def test_a_model_and_its_checkpoint_say_what_they_are_and_where_they_come_from(
    client: TestClient, served: Context
) -> None:
    a_base_model(served.database)
    asked: dict[str, Any] = {"technique": {"type": "dora"}, "method": {"type": "reward"}}
    name = a_model(served, a_project(served.database), **asked)
    told = [client.get(f"/v1/models/{each}").json()["facts"] for each in (name, f"{name}:ckpt-step-5")]
    told.append(client.get("/v1/models").json()["data"][0]["facts"])
    job_id = told[0].pop("fine_tuning_job_id")
    assert told[0] == {"base_model": "tiny", "technique": "dora", "method": "reward", "output": "reward"}
    assert told[1] == told[2] == told[0] | {"fine_tuning_job_id": job_id}


def test_a_deleted_model_is_gone_by_each_of_its_doors(client: TestClient, served: Context, published: str) -> None:
    assert client.delete(f"/v1/models/{NAME}").json() == {"id": NAME, "object": "model", "deleted": True}
    for path in (
        f"/v1/models/{NAME}",
        f"/v1/models/{NAME}:ckpt-step-5",
        f"/v1/models/{NAME}/artifacts",
        f"/v1/fine_tuning/jobs/{published}/adapter",
        "/v1/files/file-archive",
    ):
        assert client.get(path).status_code == 404, path
    assert not served.storage.exists(f"models/{published}/1/adapter_config.json")


def test_a_base_model_is_not_the_users_to_delete(client: TestClient, served: Context) -> None:
    a_base_model(served.database)
    assert client.delete("/v1/models/tiny").status_code == 403


def test_another_projects_models_do_not_exist(other_project: TestClient, published: str) -> None:
    for path in (
        f"/v1/models/{NAME}",
        f"/v1/models/{NAME}:ckpt-step-5",
        f"/v1/models/{NAME}/artifacts/adapter_config.json",
    ):
        assert other_project.get(path).status_code == 404
    assert other_project.delete(f"/v1/models/{NAME}").status_code == 404
    assert other_project.get("/v1/models").json()["data"] == []


def test_the_download_of_an_archive_resumes_from_a_byte(client: TestClient, published: str) -> None:
    path = f"/v1/fine_tuning/jobs/{published}/adapter"
    whole = client.get(path)
    assert whole.headers["accept-ranges"] == "bytes"
    rest = client.get(path, headers={"range": "bytes=700-"})
    assert (rest.status_code, rest.content) == (206, whole.content[700:])
    size = len(whole.content)
    assert rest.headers["content-range"] == f"bytes 700-{size - 1}/{size}"
    assert client.get(path, headers={"range": f"bytes={size}-"}).status_code == 416


def test_the_archive_of_a_model_cannot_be_deleted_from_under_it(client: TestClient, published: str) -> None:
    assert client.delete("/v1/files/file-archive").status_code == 200
    assert client.get(f"/v1/fine_tuning/jobs/{published}/adapter").status_code == 200


@pytest.mark.parametrize(
    ("asked", "status", "sent"),
    [("bytes=1500-", 206, 500), ("bytes=1500-9999", 206, 500), ("lines=5-", 200, 2000)],
)
def test_a_download_resumes_from_a_byte_and_else_begins_again(
    client: TestClient, published: str, asked: str, status: int, sent: int
) -> None:
    address = f"/v1/models/{NAME}/artifacts/adapter_model.safetensors"
    response = client.get(address, headers={"range": asked})
    assert (response.status_code, len(response.content)) == (status, sent)
    assert response.headers["content-length"] == str(sent)
    assert response.headers.get("content-range") == ("bytes 1500-1999/2000" if status == 206 else None)


def test_a_list_of_models_reads_no_artifacts_and_no_recipes(
    client: TestClient, served: Context, published: str
) -> None:
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(served.database.engine, "before_cursor_execute", note)
    found = client.get("/v1/models").json()["data"][0]
    event.remove(served.database.engine, "before_cursor_execute", note)
    assert found == client.get(f"/v1/models/{NAME}").json()
    (of_models,) = (statement for statement in statements if re.search(r"FROM models\b", statement))
    assert re.search(r"\bmodels\.artifacts\b", of_models) is None
    assert not any(re.search(r"FROM jobs\b", statement) for statement in statements)
