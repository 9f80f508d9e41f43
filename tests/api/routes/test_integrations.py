from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.context import Context
from api.infra.tracker_registry import MissingLibrary, require_libraries
from api.main import create_app
from api.settings import Settings
from tests.api.conftest import client_of
from tests.api.routes.test_jobs import create
from tests.factories import a_base_model

WANDB: dict[str, Any] = {
    "type": "wandb",
    "wandb": {"project": "tuning", "name": "first", "entity": "team", "tags": ["a", "b"]},
}


@pytest.fixture
def settings(sqlite_url: str, folder_url: str, valkey_url: str) -> Settings:
    """How it is stored is no matter here."""
    return Settings(database_url=sqlite_url, storage_url=folder_url, broker_url=valkey_url)


def test_without_the_operators_key_an_integration_is_refused_and_the_answer_says_what_to_do(
    client: TestClient, served: Context
) -> None:
    a_base_model(served.database)
    answer = create(client, integrations=[WANDB])
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, "integrations", "integration_not_configured")
    assert "ATTUNE_WANDB_API_KEY" in error["message"]


@pytest.mark.parametrize("given", [{"wandb_api_key": "k" * 40}, {"wandb_mode": "offline"}])
def test_with_it_the_job_shows_the_integration_as_it_was_given(settings: Settings, given: dict[str, Any]) -> None:
    app = create_app(Settings(**settings.model_dump() | given))
    a_base_model(app.state.context.database)
    answer = create(client_of(app, "default"), integrations=[WANDB])
    assert answer.json()["integrations"] == [WANDB]
    assert "kkkk" not in answer.text
    app.state.context.database.dispose()


def test_a_tracker_without_its_library_is_refused_at_the_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.infra.tracker_registry._LIBRARIES", {"wandb": "no_such_library"})
    with pytest.raises(MissingLibrary, match=r"pip install '\.\[wandb\]'"):
        require_libraries(settings.model_copy(update={"wandb_mode": "offline"}))


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, "hub_not_configured"),
        ({"hub_token": "hf_x", "hub_namespace": "other"}, "hub_namespace_not_allowed"),
        ({"hub_token": "hf_x", "hub_namespace": "team"}, None),
    ],
)
def test_a_push_goes_only_where_the_operator_lets_it(
    settings: Settings, given: dict[str, Any], code: str | None
) -> None:
    app = create_app(Settings(**settings.model_dump() | given))
    a_base_model(app.state.context.database)
    answer = create(client_of(app, "default"), export={"hub": {"repository": "team/tuned"}})
    app.state.context.database.dispose()
    if code is None:
        assert answer.json()["export"]["hub"] == {"repository": "team/tuned", "private": True}
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
