"""The whole model that an adapter makes of its base: apart from the adapter by every door."""

import pytest
from fastapi.testclient import TestClient

from api.context import Context
from tests.api.routes.test_jobs import create
from tests.api.routes.test_models import members
from tests.factories import a_base_model, a_model, a_project

ADAPTER = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"w" * 700}
WHOLE = {"config.json": b"{}", "model.safetensors": b"m" * 900}
BOTH = ADAPTER | {f"merged/{name}": content for name, content in WHOLE.items()}


@pytest.fixture
def project(served: Context) -> str:
    a_base_model(served.database)
    return a_project(served.database)


def job_of(client: TestClient, model: str) -> str:
    return str(client.get(f"/v1/models/{model}").json()["facts"]["fine_tuning_job_id"])


def names(client: TestClient, model: str, query: str = "") -> set[str]:
    return {artifact["name"] for artifact in client.get(f"/v1/models/{model}/artifacts{query}").json()["data"]}


def test_an_adapter_and_its_merged_model_are_two_downloads(client: TestClient, served: Context, project: str) -> None:
    model = a_model(served, project, BOTH)
    path = f"/v1/fine_tuning/jobs/{job_of(client, model)}/adapter"
    assert members(client.get(path).content) == ADAPTER
    assert members(client.get(path, params={"format": "merged"}).content) == WHOLE
    assert names(client, model) == ADAPTER.keys()
    assert names(client, model, "?format=merged") == BOTH.keys() - ADAPTER.keys()


@pytest.mark.parametrize("slash", ["/", "%2F"])
def test_a_merged_file_is_served_by_its_name(client: TestClient, served: Context, project: str, slash: str) -> None:
    answer = client.get(f"/v1/models/{a_model(served, project, BOTH)}/artifacts/merged{slash}model.safetensors")
    assert answer.content == WHOLE["model.safetensors"]
    assert answer.headers["content-disposition"].endswith("''model.safetensors")


def test_a_whole_model_is_its_own_merged_model(client: TestClient, served: Context, project: str) -> None:
    model = a_model(served, project, WHOLE, technique={"type": "full"})
    path = f"/v1/fine_tuning/jobs/{job_of(client, model)}/adapter"
    assert members(client.get(path).content) == members(client.get(f"{path}?format=merged").content) == WHOLE


@pytest.mark.parametrize(
    ("technique", "says"), [("lora", '"export": {"merged": true}'), ("prefix", "train with lora, dora, qlora")]
)
def test_what_was_not_merged_says_why_and_what_to_ask_for(
    client: TestClient, served: Context, project: str, technique: str, says: str
) -> None:
    model = a_model(served, project, ADAPTER, technique={"type": technique})
    refused = client.get(f"/v1/fine_tuning/jobs/{job_of(client, model)}/adapter?format=merged")
    error = refused.json()["error"]
    assert (refused.status_code, error["param"], error["code"]) == (400, "format", "no_merged_weights")
    assert says in error["message"]
    assert client.get(f"/v1/models/{model}:ckpt-step-5/artifacts?format=merged").status_code == 400


def test_an_unknown_format_is_refused(client: TestClient, served: Context, project: str) -> None:
    model = a_model(served, project, BOTH)
    refused = client.get(f"/v1/fine_tuning/jobs/{job_of(client, model)}/adapter?format=onnx")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "format")


def test_merging_what_cannot_be_merged_is_refused_at_once(client: TestClient, project: str) -> None:
    refused = create(client, technique={"type": "prefix"}, export={"merged": True})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "export.merged")
    told = create(client, export=None).json()
    assert told["export"]["merged"] == "auto"
    assert create(client, export={"merged": True}).json()["export"]["merged"] is True


def test_a_gguf_file_is_a_download_of_its_own(client: TestClient, served: Context, project: str) -> None:
    file = {"gguf/model-f16.gguf": b"g" * 600}
    model = a_model(served, project, BOTH | file)
    path = f"/v1/fine_tuning/jobs/{job_of(client, model)}/adapter"
    assert members(client.get(path).content) == ADAPTER
    assert members(client.get(path, params={"format": "gguf"}).content) == {"model-f16.gguf": b"g" * 600}
    assert names(client, model, "?format=gguf") == file.keys()
    without = client.get(f"/v1/models/{a_model(served, project, BOTH)}/artifacts?format=gguf").json()["error"]
    assert (without["param"], without["code"]) == ("format", "no_gguf")


@pytest.mark.parametrize(
    ("base", "body"),
    [
        ("gpt2", {}),
        ("llama", {"technique": {"type": "prefix"}}),
        ("llama", {"method": {"type": "classification", "classification": {}}}),
    ],
)
def test_gguf_that_is_not_known_to_come_out_right_is_refused_at_once(
    base: str, body: dict[str, object], client: TestClient, served: Context
) -> None:
    a_base_model(served.database, base, model_type=base, kind="causal_lm", classifies=True)
    refused = create(client, model=base, export={"gguf": "f16"}, **body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "export.gguf"), refused.text
