import resource
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.context import Context
from api.main import create_app
from api.services import keys
from api.settings import Settings
from api.spec.fields import JsonObject
from docs.site import openapi


@pytest.fixture
def app(settings: Settings) -> Iterator[FastAPI]:
    app = create_app(settings)
    yield app
    app.state.context.database.dispose()


@pytest.fixture(scope="session")
def document() -> JsonObject:
    """The OpenAPI document, which takes a second of processor time. No setting changes it."""
    return openapi()


@pytest.fixture
def served(app: FastAPI) -> Context:
    """What the app works with."""
    context: Context = app.state.context
    return context


def client_of(app: FastAPI, project: str, scope: str = "write") -> TestClient:
    _, plain = keys.create(app.state.context, project=project, name="test", scope=scope)
    return TestClient(app, headers={"Authorization": f"Bearer {plain}"}, raise_server_exceptions=False)


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    return client_of(app, "default")


@pytest.fixture
def other_project(app: FastAPI) -> TestClient:
    return client_of(app, "other")


@pytest.fixture
def no_room() -> Iterator[None]:
    """No file may grow beyond half a megabyte: a disk that is full, for this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512 * 1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
