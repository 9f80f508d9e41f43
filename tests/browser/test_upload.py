"""Large files are sent in parts: each again if it fails, and none twice if the upload is interrupted."""

from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.chromium import Visitor

SEND = """async ([name, size, stopAfter, purpose = "fine-tune"]) => {
  const own = document.querySelector("script[type=module]").src;
  const { uploadInParts } = await import(new URL("upload.js", own));
  const file = new File([new Uint8Array(size).fill(97)], name, { lastModified: 1 });
  const [view, person] = [new AbortController(), new AbortController()];
  const [stop, after] = stopAfter ?? [];
  const onProgress = (fraction) => { if (fraction >= after) ({ view, person })[stop].abort(); };
  const options = { purpose, signal: view.signal, cancelled: person.signal, onProgress, size: 1000 };
  const sent = uploadInParts(file, options).catch((error) => ({ error: error.message }));
  if (after === 0) ({ view, person })[stop].abort();
  return sent;
}"""


@pytest.fixture
def page(visitor: Visitor) -> Page:
    visitor.page.goto("/files")
    return visitor.page


def parts_sent(visitor: Visitor) -> int:
    return sum(url.endswith("/parts") for url in visitor.requests)


def test_a_part_that_fails_is_sent_again(visitor: Visitor, page: Page) -> None:
    attempts: list[Route] = []

    def answer(route: Route) -> None:
        attempts.append(route)
        if len(attempts) == 2:
            route.fulfill(status=503, json={"error": {"message": "The storage is away."}})
        else:
            route.continue_()

    page.route("**/parts", answer)
    file: dict[str, Any] = page.evaluate(SEND, ["rows.jsonl", 3500, None])
    assert (file["filename"], file["bytes"], len(attempts)) == ("rows.jsonl", 3500, 5)
    assert page.evaluate("localStorage.length") == 0


def test_interrupted_uploads_continue_after_their_last_parts(visitor: Visitor, page: Page) -> None:
    sizes = {"long.jsonl": 5000, "other.jsonl": 6000}
    for name, size in sizes.items():
        stopped = page.evaluate(SEND, [name, size, ["view", 0.5]])
        assert "send the file again to continue" in stopped["error"]
    assert 6 <= parts_sent(visitor) <= 8
    page.reload()
    for name, size in sizes.items():
        assert page.evaluate(SEND, [name, size, None])["bytes"] == size
    assert parts_sent(visitor) <= 13, "at most the parts that were under way are sent twice"
    assert page.evaluate("localStorage.length") == 0


def test_a_cancelled_upload_is_cancelled_on_the_server(visitor: Visitor, page: Page) -> None:
    with page.expect_response("**/cancel") as cancelled:
        page.evaluate(SEND, ["wrong.jsonl", 5000, ["person", 0.5]])
    assert cancelled.value.json()["status"] == "cancelled"
    assert page.evaluate("localStorage.length") == 0


def test_an_upload_that_is_cancelled_while_it_begins_sends_nothing(visitor: Visitor, page: Page) -> None:
    assert "error" in page.evaluate(SEND, ["late.jsonl", 5000, ["person", 0]])
    assert parts_sent(visitor) == 0


def test_a_refusal_is_said_in_the_words_of_the_server(page: Page) -> None:
    assert "purpose" in page.evaluate(SEND, ["rows.jsonl", 5000, None, "nonsense"])["error"]


def test_the_size_of_parts_follows_that_of_the_file(page: Page) -> None:
    script = """async (sizes) => {
      const own = document.querySelector("script[type=module]").src;
      const { partSize } = await import(new URL("upload.js", own));
      return sizes.map((size) => [partSize(size), Math.ceil(size / partSize(size))]);
    }"""
    (small, _), (_, parts) = page.evaluate(script, [100 * 2**20, 2**40])
    assert small == 16 * 2**20
    assert parts <= 10_000


def test_a_running_upload_shows_a_button_that_cancels_it(page: Page) -> None:
    page.route("**/v1/files", lambda route: None if route.request.method == "POST" else route.continue_())
    page.set_input_files("input[type=file]", {"name": "rows.jsonl", "mimeType": "text/plain", "buffer": b"{}\n"})
    page.get_by_role("button", name="Cancel upload").click()
    expect(page.get_by_text("Upload cancelled")).to_be_visible()
    expect(page.get_by_role("button", name="Upload a file")).to_be_enabled()
    page.unroute_all(behavior="ignoreErrors")
