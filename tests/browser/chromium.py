"""A headless Chromium, and what goes wrong with a page besides what it shows: foreign requests, errors."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")


def executable() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    # It has no sandbox of its own where the tests run as root, and it shows our own pages only.
    arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--force-device-scale-factor=1"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=arguments)
        yield browser
        browser.close()


class Visitor:
    """A person with a browser at one server, and what went wrong while the person looked."""

    def __init__(self, browser: Browser, base_url: str, **options: object) -> None:
        self.base_url = base_url.removesuffix("/v1")
        self.context: BrowserContext = browser.new_context(
            base_url=self.base_url,
            viewport={"width": 1440, "height": 900},
            permissions=["clipboard-read", "clipboard-write"],
            **options,  # type: ignore[arg-type]
        )
        self.context.set_default_timeout(20_000)
        self.requests: list[str] = []
        self.faults: list[str] = []
        self.page: Page = self.context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.faults.append(f"{error.name}: {error.message}"))
        self.page.on("console", lambda message: self._note(message.type, message.text))

    def sign_in(self, key: str) -> None:
        """Sign in without the form."""
        answer = self.context.request.post(f"{self.base_url}/session", data={"key": key})
        if answer.status == 429:  # the tests of a file share an address, and may be faster than its limit
            time.sleep(int(answer.headers["retry-after"]))
            answer = self.context.request.post(f"{self.base_url}/session", data={"key": key})
        assert answer.ok, answer.text()

    @property
    def foreign(self) -> list[str]:
        """Requests to other hosts than the server."""
        own = urlsplit(self.base_url).netloc
        return [url for url in self.requests if urlsplit(url).netloc not in ("", own)]

    def _note(self, kind: str, text: str) -> None:
        # An answer with an error status is no fault of the page: it shows it.
        if kind == "error" and "status of" not in text:
            self.faults.append(text)
