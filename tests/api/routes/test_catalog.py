from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.context import Context
from api.spec.catalog import GRADERS, METHODS, TECHNIQUES
from api.spec.formats import FORMATS
from tests.conftest import EMBEDDED
from tests.factories import a_base_model

SETTINGS = EMBEDDED


@pytest.fixture
def catalog(client: TestClient, served: Context) -> dict[str, Any]:
    judges = {"judge_url": "https://judges.example.com/v1", "judge_models": "strict, gpt-4o=gpt-4o-2024-08-06"}
    object.__setattr__(served, "settings", served.settings.model_copy(update=judges))
    a_base_model(served.database)
    a_base_model(served.database, "reader", kind="encoder", model_type="bert")
    return dict(client.get("/v1/fine_tuning/catalog").json())


def test_every_entry_of_every_catalogue_is_listed(catalog: dict[str, Any]) -> None:
    for part, entries in (("techniques", TECHNIQUES), ("methods", METHODS), ("graders", GRADERS), ("formats", FORMATS)):
        assert {entry["type"] for entry in catalog[part]} == entries.keys()
        assert all(entry["summary"] for entry in catalog[part])
    assert [(base["id"], base["kind"]) for base in catalog["base_models"]] == [
        ("reader", "encoder"),
        ("tiny", "causal_lm"),
    ]
    assert catalog["judges"] == ["gpt-4o", "strict"]


def test_schemas_tell_limits_choices_and_that_nothing_else_is_read(catalog: dict[str, Any]) -> None:
    lora = next(entry["schema"] for entry in catalog["techniques"] if entry["type"] == "lora")
    assert (lora["properties"]["rank"]["minimum"], lora["properties"]["rank"]["maximum"]) == (1, 1024)
    assert "pissa" in lora["properties"]["init"]["enum"]
    for part in ("techniques", "methods", "graders"):
        assert all(entry["schema"]["additionalProperties"] is False for entry in catalog[part])


def test_every_field_is_described(catalog: dict[str, Any]) -> None:
    entries = [entry["schema"] for part in ("techniques", "methods", "graders") for entry in catalog[part]]
    schemas = [each for schema in [*entries, catalog["job"]] for each in (schema, *schema.get("$defs", {}).values())]
    fields = [(name, field) for schema in schemas for name, field in schema["properties"].items() if name != "type"]
    assert [name for name, field in fields if not {"description", "$ref"} & field.keys()] == []


def test_the_jobs_schema_leaves_method_and_technique_to_their_entries(catalog: dict[str, Any]) -> None:
    job = catalog["job"]
    assert {"model", "training_file", "training", "export"} <= job["properties"].keys()
    assert not {"method", "technique", "hyperparameters"} & job["properties"].keys()
    assert "lora" not in str(job["$defs"]).lower()


def test_every_combination_is_there_with_the_reason_where_it_is_illegal(catalog: dict[str, Any]) -> None:
    told = {(each["technique"], each["method"], each["kind"]): each for each in catalog["combinations"]}
    assert len(told) == 2 * len(TECHNIQUES) * len(METHODS)
    assert told["lora", "dpo", "causal_lm"]["legal"]
    assert "use classification" in told["lora", "dpo", "encoder"]["reason"]
    assert "modernbert" not in told["prefix", "classification", "encoder"]["families"]
    assert all(each["legal"] == (each["reason"] is None) for each in told.values())
