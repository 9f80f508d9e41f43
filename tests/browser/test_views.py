"""The views of files, new jobs, models, keys, webhooks and the service, in a real browser beside a real Attune."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from openai import OpenAI
from playwright.sync_api import Browser, Page, expect

from tests.browser.chromium import Visitor
from tests.end_to_end.jobs import client_of, create, ended, rows, upload
from tests.services import AttuneUp

ANSWER = "日本 🙂 straße"
ROW = {"messages": [{"role": "user", "content": "Grüße"}, {"role": "assistant", "content": ANSWER}]}
BROKEN = b'{"messages": [{"role": "user", "content": "half a row\n'


@pytest.fixture(scope="module")
def client(live_server: AttuneUp) -> OpenAI:
    return client_of(live_server)


@pytest.fixture
def page(browser: Browser, live_server: AttuneUp) -> Iterator[Page]:
    visitor = Visitor(browser, live_server.base_url)
    visitor.sign_in(live_server.api_key)
    yield visitor.page
    visitor.context.close()
    assert visitor.foreign == visitor.faults == []


def serious_faults(page: Page) -> list[tuple[str, str]]:
    """What axe-core finds on the page as it is, with the first element concerned."""
    report = Axe().run(page).response["violations"]
    return [(each["id"], each["nodes"][0]["html"]) for each in report if each["impact"] in ("serious", "critical")]


def pick(page: Page, name: str, content: bytes) -> None:
    page.locator("input[type=file]").set_input_files({"name": name, "mimeType": "application/jsonl", "buffer": content})


def test_a_broken_file_is_understood_and_its_mended_copy_becomes_a_job(page: Page, client: OpenAI) -> None:
    page.goto("/files")
    pick(page, "broken.jsonl", rows(12) + BROKEN + 3 * rows(1, seed=9))
    expect(page.get_by_role("heading", name="broken.jsonl")).to_be_visible()
    expect(page.get_by_role("heading", name="1 error, 2 warnings")).to_be_visible()
    expect(page.locator("pre.source").first).to_have_text(BROKEN.decode().strip())
    expect(page.get_by_text("2 × duplicate")).to_be_visible()
    expect(page.locator("mark.loss").nth(1)).to_be_visible()
    assert serious_faults(page) == []

    page.goto("/new")
    pick(page, "mended.jsonl", json.dumps(ROW).encode() + b"\n" + rows(12))
    expect(page.get_by_label("Training file").locator("option:checked")).to_contain_text("mended.jsonl")
    expect(page.locator("aside")).to_contain_text("Training time")
    # Characters that several tokens share are shown whole.
    expect(page.locator("aside mark.loss").nth(1)).to_contain_text(ANSWER)
    page.get_by_text("Training", exact=True).click()
    assert page.get_by_label("Learning rate", exact=True).get_attribute("placeholder") == "auto: 2e-4"
    page.get_by_label("Learning rate", exact=True).fill("-1")
    field = page.locator(".field", has=page.get_by_label("Learning rate", exact=True))
    expect(field).to_contain_text("greater than 0")
    page.get_by_label("Learning rate", exact=True).fill("1e-3")
    page.get_by_label("Max steps").fill("2")
    page.get_by_text("Validation file, name, seed and more").click()
    page.get_by_label("Suffix").fill("mended")
    page.get_by_text("Copy as").click()
    page.get_by_role("button", name="curl").click()
    copied = str(page.evaluate("navigator.clipboard.readText()"))
    assert '"learning_rate": 0.001' in copied
    assert serious_faults(page) == []

    page.get_by_role("button", name="Create job").click()
    page.wait_for_url("**/jobs/ftjob-*")
    job = client.fine_tuning.jobs.retrieve(page.url.rpartition("/")[2])
    created: Any = job.to_dict()
    assert (created["user_provided_suffix"], created["training"]["max_steps"]) == ("mended", 2)
    page.goto(f"/new?from={job.id}")
    expect(page.get_by_label("Suffix")).to_have_value("mended")
    client.fine_tuning.jobs.cancel(job.id)


def test_a_model_answers_beside_its_base_is_downloaded_and_deleted(page: Page, client: OpenAI, tmp_path: Path) -> None:
    model = ended(client, create(client, upload(client, rows(12)), steps=2, suffix="talker")).fine_tuned_model
    page.goto("/models?q=talker")
    page.get_by_role("link", name=str(model)).click()
    page.get_by_label("Message", exact=True).fill("abcd efgh")
    page.keyboard.press("Enter")
    expect(page.get_by_text(re.compile("tokens? in .* s"))).to_have_count(2)
    assert serious_faults(page) == []
    with page.expect_download() as download:
        page.get_by_role("link", name="adapter_config.json").click()
    download.value.save_as(tmp_path / "config.json")
    assert json.loads((tmp_path / "config.json").read_text())["peft_type"] == "LORA"
    page.get_by_text("Model card").click()
    expect(page.get_by_role("article").get_by_role("heading", name="Load the model")).to_be_visible()
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("dialog")).to_contain_text(f"Delete model {model}?")
    page.get_by_role("button", name="Delete model").click()
    page.wait_for_url("**/models")
    assert model not in [each.id for each in client.models.list()]


def test_keys_and_webhooks_show_their_secrets_once(page: Page, live_server: AttuneUp) -> None:
    page.goto("/keys")
    page.get_by_role("button", name="New key").click()
    page.get_by_role("button", name="Create key").click()
    expect(page.get_by_role("dialog")).to_contain_text("at least 1 character")
    page.get_by_label("Name").fill("grafana")
    page.get_by_label("Scope").select_option("read")
    page.get_by_role("button", name="Create key").click()
    secret = page.get_by_role("textbox", name="Key grafana").input_value()
    page.get_by_role("button", name="Done").click()

    def status() -> int:
        headers = {"Authorization": f"Bearer {secret}"}
        return httpx.get(f"{live_server.base_url}/files", headers=headers).status_code

    assert status() == 200
    assert serious_faults(page) == []
    row = page.get_by_role("row", name="grafana").first
    row.get_by_role("button", name="Revoke").click()
    page.get_by_role("button", name="Revoke key").click()
    expect(row).to_contain_text("Revoked")
    assert status() == 401

    page.goto("/webhooks")
    page.get_by_role("button", name="New webhook").first.click()
    page.get_by_label("Name").fill("alerts")
    page.get_by_label("Address").fill("http://example.com/hook")
    page.get_by_role("button", name="Create webhook").click()
    expect(page.get_by_role("dialog")).to_contain_text("must begin with https://")
    page.get_by_label("Address").fill("https://hook.invalid/attune")
    page.get_by_role("button", name="Create webhook").click()
    assert page.get_by_role("textbox", name="Signing secret").input_value().startswith("whsec_")
    page.get_by_role("button", name="Done").click()
    expect(page.get_by_text("Nothing was sent yet.")).to_be_visible()
    page.get_by_role("button", name="Send a test").click()
    expect(page.get_by_text("The endpoint could not be reached")).to_be_visible()
    assert serious_faults(page) == []
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete webhook").click()
    page.wait_for_url("**/webhooks")


def test_an_operator_sees_what_runs_what_it_used_and_whether_all_works(page: Page, client: OpenAI) -> None:
    ended(client, create(client, upload(client, rows(12)), steps=2))
    page.goto("/workers")
    expect(page.get_by_role("table")).to_contain_text("prepare")
    expect(page.get_by_text("live workers,")).to_be_visible()
    page.goto("/usage?by=model")
    expect(page.get_by_role("row", name="tiny").first).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert "trained_tokens" in download.value.path().read_text().splitlines()[0]
    page.goto("/health")
    expect(page.get_by_role("row", name="Database and storage")).to_contain_text("Good")
    expect(page.get_by_role("row", name="Workers that train")).to_contain_text("Good")
