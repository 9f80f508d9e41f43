"""Stored JSON in responses: described in /openapi.json, and passed on unchanged whatever release wrote it."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.context import Context
from api.spec.catalog import METHODS, TECHNIQUES
from api.spec.fields import JsonObject
from api.spec.lifecycle import JobStatus
from api.spec.recipe import Recipe
from api.spec.resolve import resolve
from tests.conftest import EMBEDDED
from tests.factories import a_job, a_project

SETTINGS = EMBEDDED

GRADER = {"type": "string_check", "name": "right", "input": "a", "reference": "a", "operation": "eq"}
REQUIRED = {"ppo": {"grader": GRADER}, "reinforcement": {"grader": GRADER}}
SHOWN = ("hyperparameters", "method", "technique", "training", "resources", "export", "progress", "estimate")

PREDICTED = {
    "precision": "float32",
    "gradient_checkpointing": False,
    "micro_batch_tokens": 64,
    "trained_parameters": 10,
    "memory": {"runtime": 1, "weights": 2, "total": 3},
    "fits": None,
    "training_s": 1.5,
    "seconds": 2.0,
    "measured": True,
    "flops": 1e9,
    "passes": 2.0,
}
OLDER: dict[str, Any] = {
    "model": "tiny",
    "training_file": "file-none",
    "suffix": None,
    "metadata": None,
    "integrations": None,
    "method": {
        "type": "supervised",
        "supervised": {"hyperparameters": {"n_epochs": 2, "of_an_old_release": 1}, "removed": "x"},
    },
    "technique": {"type": "lora", "rank": 4, "alpha": 8, "removed": None},
    "training": {"learning_rate": "auto", "removed": [1, 2.0]},
    "resources": {"gpus": "auto", "removed": 0},
}
"""A recipe without newer fields (no export, few options), with fields that no class has any more."""


@pytest.fixture
def schemas(document: JsonObject) -> dict[str, Any]:
    found: dict[str, Any] = document["components"]["schemas"]
    return found


def check(value: Any, schema: dict[str, Any], schemas: dict[str, Any]) -> bool:
    """Return whether the value has the shape of the schema: the keywords that stored schemas use."""
    if "$ref" in schema:
        return check(value, schemas[schema["$ref"].rsplit("/", 1)[1]], schemas)
    if "anyOf" in schema:
        return any(check(value, member, schemas) for member in schema["anyOf"])
    if "oneOf" in schema:
        return sum(check(value, member, schemas) for member in schema["oneOf"]) == 1
    if "const" in schema or "enum" in schema:
        return value in schema.get("enum", [schema.get("const")])
    types: dict[str, Any] = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "array": list,
        "object": dict,
    }
    kind = schema.get("type")
    if kind == "null":
        return value is None
    if kind and (not isinstance(value, types[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return False
    if kind == "array":
        return all(check(item, schema.get("items", {}), schemas) for item in value)
    if kind == "object":
        others = schema.get("additionalProperties", {})
        fields = schema.get("properties", {})
        known = others is not False or value.keys() <= fields.keys()
        has_all = value.keys() >= set(schema.get("required", ()))
        return known and has_all and all(check(each, fields.get(name, others), schemas) for name, each in value.items())
    return True


def test_the_document_is_served(client: TestClient, document: JsonObject) -> None:
    assert client.get("/openapi.json").json() == document


def test_a_job_is_described_down_to_its_options(schemas: dict[str, Any]) -> None:
    for name in (*SHOWN, "integrations"):
        assert "#/components/schemas/" in json.dumps(schemas["JobObject"]["properties"][name]), name
    assert schemas["QloraObject"]["properties"]["quantization"]["enum"] == ["nf4", "fp4"]
    assert schemas["ResolvedTrainingObject"]["properties"]["total_steps"]["type"] == "integer"
    assert "additionalProperties" not in schemas["LoraObject"]
    assert "x-stored" not in json.dumps(schemas)


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize(
    ("method", "technique"),
    [*((method, "lora") for method in METHODS), *(("supervised", technique) for technique in TECHNIQUES)],
)
def test_every_job_has_the_shape_that_the_document_says(
    method: str, technique: str, prepared: bool, client: TestClient, served: Context, schemas: dict[str, Any]
) -> None:
    options = {"type": method, method: REQUIRED.get(method, {})}
    recipe = Recipe.model_validate(
        {"model": "tiny", "training_file": "file-none", "method": options, "technique": {"type": technique}}
    )
    resolved = resolve(recipe, job_id="j", seed=0, max_length=3, train_rows=10, validation_rows=0)
    values = {"resolved": resolved.model_dump(mode="json")} if prepared else {}
    status = JobStatus.QUEUED if prepared else JobStatus.VALIDATING_FILES
    stored = recipe.model_dump(mode="json")
    job_id = a_job(served.database, a_project(served.database), status, recipe=stored, **values)
    shown = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()
    assert check(shown, schemas["JobObject"], schemas)
    assert shown["technique"] == stored["technique"]


def test_jobs_of_earlier_releases_are_shown_byte_for_byte(
    client: TestClient, served: Context, schemas: dict[str, Any]
) -> None:
    estimate = {"rows": {}, "predicted": PREDICTED | {"removed": 1}, "actual": {"seconds": 3}}
    job_id = a_job(
        served.database,
        a_project(served.database),
        JobStatus.SUCCEEDED,
        recipe=OLDER,
        progress={"step": 3},
        estimate=estimate,
    )
    response = client.get(f"/v1/fine_tuning/jobs/{job_id}")
    expected = {name: OLDER[name] for name in ("method", "technique", "training", "resources")}
    expected |= {"hyperparameters": OLDER["method"]["supervised"]["hyperparameters"], "export": {"merged": "auto"}}
    expected |= {"progress": {"step": 3}, "estimate": {name: estimate[name] for name in ("predicted", "actual")}}
    for name, stored in expected.items():
        written = json.dumps(stored, separators=(",", ":")).encode()
        assert b'"%s":%s' % (name.encode(), written) in response.content, name
    assert check(response.json(), schemas["JobObject"], schemas)
