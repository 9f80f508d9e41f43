import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from api.context import Context
from api.main import create_app
from api.records import Database
from api.records.migrate import migrate
from api.services import keys
from api.settings import Settings
from tests.api.served import listening
from tests.browser.chromium import Visitor, chromium, executable

expect.set_options(timeout=30_000)
"""Milliseconds: a trainer needs some seconds until its first step, and longer beside other tests."""


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """One Chromium for these tests. Each test opens contexts of its own, which share nothing.

    It ends with them, because Playwright's event loop runs in the tests' thread, where others could start none.
    """
    if executable() is None:
        message = "Chromium is not installed: apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Context, str]]:
    """The address of an API alone, its context, and a key."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("dashboard"))
    migrate(Database(settings.database))
    app = create_app(settings)
    _, key = keys.create(app.state.context, project="default", name="test", scope="write")
    with listening(app) as address:
        yield address, app.state.context, key
    app.state.context.database.dispose()


@pytest.fixture
def visitor(browser: Browser, server: tuple[str, Context, str]) -> Iterator[Visitor]:
    address, _, key = server
    visitor = Visitor(browser, address)
    visitor.sign_in(key)
    yield visitor
    visitor.context.close()
    assert visitor.foreign == visitor.faults == []
