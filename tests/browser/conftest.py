import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.chromium import chromium, executable

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
