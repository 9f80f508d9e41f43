import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.api.routes.test_files import upload


@pytest.fixture
def azure(app: FastAPI, client: TestClient) -> TestClient:
    """A client that says who it is as Azure's do."""
    key = client.headers["authorization"].removeprefix("Bearer ")
    return TestClient(app, headers={"api-key": key}, raise_server_exceptions=False)


@pytest.mark.parametrize("mount", ["/openai", "/openai/v1"])
def test_every_call_is_there_as_azure_writes_it(azure: TestClient, client: TestClient, mount: str) -> None:
    file = azure.post(
        f"{mount}/files?api-version=2024-10-21",
        files={"file": ("rows.jsonl", b"{}\n")},
        data={"purpose": "fine-tune"},
    ).json()
    assert client.get(f"/v1/files/{file['id']}").json() == file
    listed = azure.get(f"{mount}/files", params={"api-version": "preview", "limit": "1", "purpose": "fine-tune"})
    assert [each["id"] for each in listed.json()["data"]] == [file["id"]]
    assert azure.get(f"{mount}/fine_tuning/jobs", params={"metadata[a b]": "ü&x"}).json()["data"] == []


def test_a_bearer_token_works_there_too(client: TestClient) -> None:
    assert client.get("/openai/models?api-version=2024-10-21").status_code == 200


def test_a_path_with_a_deployment_is_the_path_without_it(azure: TestClient) -> None:
    assert azure.get("/openai/deployments/tiny/models").json()["object"] == "list"


def test_the_limits_are_the_same(app: FastAPI, azure: TestClient, client: TestClient) -> None:
    assert azure.post("/openai/uploads", json={"x": "x" * 2_000_000}).status_code == 413
    assert azure.get("/openai/files?api-version=1&limitt=3").status_code == 400
    assert azure.get("/v1/files").status_code == 401  # `api-key` is Azure's way only
    assert TestClient(app).get("/openai/files").status_code == 401
    assert upload(client).status_code == 200
