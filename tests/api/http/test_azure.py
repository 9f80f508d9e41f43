import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.context import Context
from tests.api.routes.test_files import upload
from tests.api.sampler import sampler, says
from tests.conftest import EMBEDDED
from tests.factories import a_base_model

SETTINGS = EMBEDDED


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


@pytest.mark.parametrize("fields", [{}, {"model": None}, {"model": "tiny"}])
def test_a_deployment_is_the_model_where_the_body_names_none(
    azure: TestClient, served: Context, fields: dict[str, object]
) -> None:
    a_base_model(served.database)
    body = {"messages": [{"role": "user", "content": "hello"}], **fields}
    path = f"/openai/deployments/{'other' if 'tiny' in fields.values() else 'tiny'}/chat/completions"
    with sampler(served.settings, says("Hi")):
        answer = azure.post(path, json=body)
    assert answer.json()["model"] == "tiny"


@pytest.mark.parametrize("deployment", ["org/tiny", "org%2Ftiny"])
@pytest.mark.parametrize("call", ["chat/completions", "completions"])
def test_a_deployments_name_may_hold_a_slash(azure: TestClient, deployment: str, call: str) -> None:
    body = {"prompt": "x"} if call == "completions" else {"messages": [{"role": "user", "content": "x"}]}
    error = azure.post(f"/openai/deployments/{deployment}/{call}", json=body).json()["error"]
    assert error["code"] == "model_not_found"
    assert error["message"].startswith("The model 'org/tiny' does not exist: GET ")


def test_the_region_that_a_job_may_train_in_is_taken_from_azures_clients_only(
    azure: TestClient, client: TestClient, served: Context
) -> None:
    a_base_model(served.database)
    body = {"model": "tiny", "training_file": upload(client).json()["id"], "trainingType": 1}
    assert azure.post("/openai/fine_tuning/jobs", json=body).status_code == 200
    assert client.post("/v1/fine_tuning/jobs", json=body).json()["error"]["param"] == "trainingType"


def test_hyperparameters_mean_what_they_mean_at_azure(azure: TestClient, client: TestClient, served: Context) -> None:
    a_base_model(served.database)
    asked = {"n_epochs": -1, "batch_size": -1, "learning_rate_multiplier": 2, "prompt_loss_weight": 0.1}
    body = {"model": "tiny", "training_file": upload(client).json()["id"], "hyperparameters": asked}
    job = azure.post("/openai/fine_tuning/jobs", json=body).json()
    assert job["hyperparameters"] == {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": 2}
    assert job["method"]["supervised"]["prompt_loss_weight"] == 0.1
    refused = client.post("/v1/fine_tuning/jobs", json=body).json()["error"]
    assert refused["param"] == "hyperparameters.n_epochs"


@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b""])
def test_a_body_that_is_no_object_is_refused_there_too(azure: TestClient, body: bytes) -> None:
    answer = azure.post(
        "/openai/deployments/tiny/completions", content=body, headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
