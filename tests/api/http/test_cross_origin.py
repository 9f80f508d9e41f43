"""Pages of other origins."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from api.main import create_app
from api.settings import Settings
from tests.conftest import EMBEDDED

SETTINGS = EMBEDDED

PAGE = "https://app.example.com"


@pytest.fixture
def allowed(settings: Settings, client: TestClient) -> Iterator[TestClient]:
    app = create_app(settings.model_copy(update={"cors_origins": f"http://localhost:3000, {PAGE}"}))
    yield TestClient(app, headers=dict(client.headers))
    app.state.context.database.dispose()


def preflight(client: TestClient, origin: str, method: str = "POST"):
    asked = {"access-control-request-method": method, "access-control-request-headers": "authorization,content-type"}
    client.headers.pop("authorization", None)
    return client.options("/v1/files", headers={"origin": origin, **asked})


def test_no_page_of_another_origin_is_allowed_by_default(client: TestClient) -> None:
    answer = client.get("/v1/models", headers={"origin": PAGE})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert preflight(client, PAGE).status_code == 401


def test_a_page_of_a_named_origin_may_use_the_api_without_cookies(allowed: TestClient) -> None:
    answer = allowed.get("/v1/models", headers={"origin": PAGE})
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "access-control-allow-credentials" not in answer.headers
    assert "x-request-id" in answer.headers["access-control-expose-headers"]
    refused = allowed.get("/v1/models", headers={"origin": PAGE, "authorization": "Bearer wrong"})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, PAGE)
    asked = preflight(allowed, PAGE)
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, PAGE)
    assert "authorization" in asked.headers["access-control-allow-headers"]


@pytest.mark.parametrize("origin", ["https://evil.example.com", "http://app.example.com", "null"])
def test_a_page_of_any_other_origin_is_not_allowed(allowed: TestClient, origin: str) -> None:
    assert "access-control-allow-origin" not in allowed.get("/v1/models", headers={"origin": origin}).headers
    assert preflight(allowed, origin).status_code == 400


@pytest.mark.parametrize("origins", ["*", "app.example.com", "https://a.example/", "https://a.example,ftp://b.example"])
def test_what_is_not_an_origin_is_refused(origins: str) -> None:
    with pytest.raises(ValidationError, match="is not an origin"):
        Settings(cors_origins=origins)
