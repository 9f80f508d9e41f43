"""The dashboard in a real browser, beside a real Attune that trains."""

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from openai import OpenAI
from playwright.sync_api import Browser, Page, ViewportSize, expect

from api.dashboard import VIEWS
from tests.browser.chromium import Visitor
from tests.end_to_end.jobs import client_of, create, ended, rows, upload
from tests.services import AttuneUp

SERIOUS = ("serious", "critical")
VIOLATIONS: dict[str, Any] = {"resultTypes": ["violations"]}
RULES: dict[Literal["light", "dark"], dict[str, Any]] = {
    "light": VIOLATIONS,
    "dark": VIOLATIONS | {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}},
}
"""axe-core's rules for each theme. Both have the same elements, in other colors."""


PHONE: ViewportSize = {"width": 390, "height": 844}
DESKTOP: ViewportSize = {"width": 1440, "height": 900}


def width_on_a_phone(page: Page) -> int:
    """Return the width of the page on a phone, whose reader scrolls sideways if it is wider than the screen."""
    page.set_viewport_size(PHONE)
    width = page.evaluate("document.documentElement.scrollWidth")
    page.set_viewport_size(DESKTOP)
    return int(width)


@pytest.fixture(scope="module")
def client(live_server: AttuneUp) -> OpenAI:
    return client_of(live_server)


@pytest.fixture(scope="module")
def trained(client: OpenAI) -> str:
    """A job that ran to its end, with validation rows and checkpoints."""
    file, validation = upload(client, rows(24)), upload(client, rows(6, seed=1))
    job_id = create(client, file, steps=12, validation_file=validation, suffix="atlas", metadata={"team": "maps"})
    assert ended(client, job_id).status == "succeeded"
    return job_id


@pytest.fixture
def visitor(browser: Browser, live_server: AttuneUp) -> Iterator[Visitor]:
    visitor = Visitor(browser, live_server.base_url)
    yield visitor
    visitor.context.close()
    assert visitor.foreign == []
    assert visitor.faults == []


def copied(page: Page) -> str:
    return str(page.evaluate("navigator.clipboard.readText()"))


def test_a_person_signs_in_follows_a_job_pauses_resumes_and_cancels_it_and_signs_out(
    visitor: Visitor, live_server: AttuneUp, client: OpenAI
) -> None:
    page = visitor.page
    page.goto("/keys")
    expect(page.get_by_label("API key")).to_be_visible()
    expect(page.locator("form.sign-in")).to_contain_text("attune open")
    page.goto("/jobs?search=story")
    page.get_by_label("API key").fill("sk-attune-wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("unknown here, revoked or expired")
    page.get_by_label("API key").fill(live_server.api_key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("No job matches.")).to_be_visible()

    # A job that another program creates appears by itself, and is opened from the keyboard.
    job_id = create(client, upload(client, rows(400)), steps=5000, suffix="story", training={"save_every": 5})
    expect(page.get_by_role("link", name="story")).to_be_visible()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="story")).to_be_visible()
    curve = page.locator(".plot").first
    expect(curve).to_have_attribute("aria-label", re.compile(r"steps 1 to \d+;"))
    expect(curve).not_to_have_attribute("aria-label", str(curve.get_attribute("aria-label")))

    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    expect(page.locator(".verdict")).to_contain_text("Paused · step")
    page.get_by_text("Copy as").click()
    page.get_by_role("button", name="curl").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    assert copied(page).startswith(f"curl '{visitor.base_url}/v1/fine_tuning/jobs/{job_id}'")
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()

    page.get_by_role("button", name="Cancel …").click()
    expect(page.get_by_role("dialog")).to_contain_text(f"Cancel {job_id}?")
    page.get_by_role("button", name="Cancel job").click()
    expect(page.locator(".status").first).to_contain_text("Cancelled")
    assert client.fine_tuning.jobs.retrieve(job_id).status == "cancelled"

    page.locator("details.account summary").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in to Attune")).to_be_visible()
    assert visitor.context.request.get("/v1/models").status == 401


def test_a_finished_job_says_whether_its_model_is_better(visitor: Visitor, live_server: AttuneUp, trained: str) -> None:
    visitor.sign_in(live_server.api_key)
    page = visitor.page
    page.goto(f"/jobs/{trained}?smoothing=0.5&scale=log")
    expect(page.locator(".verdict")).to_contain_text("than tiny: loss")
    expect(page.get_by_role("table", name="Metrics of the base model")).to_contain_text("Loss")
    expect(page.locator(".sample")).to_have_count(3)
    expect(page.get_by_role("table", name="Checkpoints")).to_contain_text("best")
    expect(page.get_by_label("Log scale")).to_be_checked()
    page.get_by_text("Show the trainers' log").click()
    expect(page.locator(".log")).to_contain_text("Training from")
    page.get_by_role("button", name="Rerun …").click()
    page.get_by_role("button", name="Create job").click()
    page.wait_for_url(lambda url: trained not in url)
    again = page.url.rpartition("/")[2]
    expect(page.get_by_role("heading", name="atlas")).to_be_visible()
    page.go_back()
    expect(page.locator(".verdict")).to_contain_text("than tiny: loss")

    page.goto("/jobs?search=atlas")
    for job in (trained, again):
        page.get_by_label(f"Compare {job}").check()
    page.get_by_role("link", name="Compare 2 jobs").click()
    expect(page.get_by_role("heading", name="Compare 2 jobs")).to_be_visible()
    expect(page.get_by_text("All settings are equal.")).to_be_visible()


def test_what_is_wrong_is_said_in_the_words_of_the_api(visitor: Visitor, live_server: AttuneUp) -> None:
    visitor.sign_in(live_server.api_key)
    page = visitor.page
    page.goto("/jobs/ftjob-unknown")
    expect(page.get_by_role("alert")).to_contain_text("Could not find fine tune: ftjob-unknown")
    page.goto("/jobs")
    expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
    page.context.set_offline(True)
    expect(page.locator("#connection")).to_contain_text("cannot be reached")
    page.context.set_offline(False)
    expect(page.locator("#connection")).to_be_hidden()
    visitor.faults.clear()  # the browser reports each request that found no network


def test_every_view_is_accessible_and_fits_on_a_phone(visitor: Visitor, live_server: AttuneUp, trained: str) -> None:
    visitor.sign_in(live_server.api_key)
    page, found = visitor.page, dict[str, Any]()
    for address in (
        *(f"/{view.name}" for view in VIEWS),
        f"/jobs/{trained}",
        f"/compare?jobs={trained}",
        "/docs/metrics",
    ):
        page.goto(address)
        expect(page.locator("h1")).to_be_visible()
        page.locator("details.account").wait_for()
        if (width := width_on_a_phone(page)) > PHONE["width"]:
            found[f"{address} on a phone"] = width
        for theme, rules in RULES.items():
            page.emulate_media(color_scheme=theme)
            report = Axe().run(page, options=rules).response["violations"]
            if serious := [fault for fault in report if fault["impact"] in SERIOUS]:
                found[f"{address}, {theme}"] = [
                    (fault["id"], [node["html"] for node in fault["nodes"]][:3]) for fault in serious
                ]
    assert found == {}, json.dumps(found, indent=1)
