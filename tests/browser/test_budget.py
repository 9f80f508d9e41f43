"""What the dashboard costs a browser: requests, bytes, and the time for which it does not respond."""

import re

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import insert

from api.context import Context
from api.records.jobs import Job
from api.spec.lifecycle import JobStatus
from tests.browser.chromium import Visitor
from tests.events import add_events
from tests.factories import a_job, a_project

REQUESTS, BYTES = 12, 250_000
JOBS, STEPS, STREAMED = 2_000, 10_000, 100
BLOCKED_MS = 1000
"""Most that one task may block a page on a machine that is busy with many other tests."""


@pytest.fixture
def job_id(server: tuple[str, Context, str]) -> str:
    """A job that has trained for many steps and still runs."""
    database = server[1].database
    job_id = a_job(database, a_project(database), JobStatus.RUNNING)
    add_events(database, job_id, STEPS)
    return job_id


def watch_tasks(page: Page) -> None:
    """Record the tasks that block the next pages for more than 50 ms."""
    page.add_init_script(
        "window.blocked = []; new PerformanceObserver((list) => "
        "window.blocked.push(...list.getEntries().map((entry) => entry.duration))).observe({type: 'longtask'})"
    )


def longest_ms(page: Page) -> float:
    return float(page.evaluate("Math.max(0, ...window.blocked)"))


def test_twelve_requests_are_enough_for_the_first_chart(visitor: Visitor, job_id: str) -> None:
    page, count = visitor.page, iter(range(1, 1000))
    page.route("**", lambda route: route.continue_() if next(count) <= REQUESTS else None)  # no answer to the others
    page.goto(f"/jobs/{job_id}", wait_until="commit")
    page.locator("figure.chart canvas").first.wait_for()


def test_all_parts_of_a_job_are_small(visitor: Visitor, job_id: str) -> None:
    page, sizes = visitor.page, dict[str, int]()
    page.on("requestfinished", lambda request: sizes.update({request.url: request.sizes()["responseBodySize"]}))
    page.goto(f"/jobs/{job_id}")
    expect(page.get_by_role("heading", name="Events")).to_be_visible()
    page.locator("details.account summary").wait_for()
    assets = {url: size for url, size in sizes.items() if "/v1/" not in url}
    assert len(assets) > 10, assets
    assert sum(assets.values()) < BYTES, assets


def test_curves_of_ten_thousand_steps_stay_smooth_while_they_grow(
    visitor: Visitor, server: tuple[str, Context, str], job_id: str
) -> None:
    page = visitor.page
    watch_tasks(page)
    page.goto(f"/jobs/{job_id}")
    curve = page.locator(".plot").first
    expect(curve).to_have_attribute("aria-label", re.compile(rf"steps 0 to {STEPS - 1};"))
    for start in range(STEPS, STEPS + STREAMED, 10):
        add_events(server[1].database, job_id, 10, start=start)
        expect(curve).to_have_attribute("aria-label", re.compile(rf"to {start + 9};"))
    assert longest_ms(page) < BLOCKED_MS

    # The steps that a reader drags over are all that the charts show, here and at the address.
    box = page.locator(".u-over").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50, steps=3)
    page.mouse.up()
    some = re.compile(r"steps 2\d\d\d to 5\d\d\d;")
    expect(curve).to_have_attribute("aria-label", some)
    page.goto(page.url)
    expect(curve).to_have_attribute("aria-label", some)
    page.locator(".u-over").first.dblclick()
    expect(curve).to_have_attribute("aria-label", re.compile(r"steps 0 to"))
    assert "steps=" not in page.url


def test_two_thousand_jobs_stay_smooth(visitor: Visitor, server: tuple[str, Context, str]) -> None:
    _, context, _ = server
    project = a_project(context.database)
    the_first = a_job(context.database, project)
    with context.database.write() as session:
        job = session.get_one(Job, the_first)
        shared = {"project_id": project, "status": "succeeded", "recipe": job.recipe, "base_model": "tiny"}
        fixed = {**shared, "training_file": "file-none", "seed": 0, "model_id": "ft:tiny:attune::x"}
        # Several in each second, as a program creates them.
        rows = [{**fixed, "id": f"ftjob-many-{number}", "created_at": 1e9 + number / 8} for number in range(JOBS)]
        session.execute(insert(Job), rows)
    page = visitor.page
    watch_tasks(page)
    page.goto("/jobs?search=many")
    more = page.get_by_role("button", name="more")
    for shown in range(100, JOBS, 100):
        expect(page.locator("tbody tr")).to_have_count(shown)
        more.click()
    expect(page.locator("tbody tr")).to_have_count(JOBS)
    expect(more).to_be_hidden()
    page.keyboard.press("j")
    assert longest_ms(page) < BLOCKED_MS


def test_a_job_that_is_watched_all_night_keeps_two_thousand_points(visitor: Visitor) -> None:
    """Series keeps the ends, the evaluations and the extremes of the loss."""
    page = visitor.page
    page.goto("/jobs")
    script = """async () => {
      const own = document.querySelector("script[type=module]").src;
      const { Series } = await import(new URL("training-curves.js", own));
      const series = new Series();
      const started = performance.now();
      for (let step = 0; step < 50000; step += 1)
        series.add([{ step, train_loss: step === 777 ? 99 : 1, ...(step % 1000 === 500 ? { valid_loss: 1 } : {}) }]);
      series.add([{ step: 49999, train_loss: 3 }]);
      const { points } = series;
      return {
        count: points.length, first: points[0].step, last: points.at(-1),
        spike: points.some(({ step }) => step === 777),
        evaluations: points.filter((point) => point.valid_loss).length, ms: performance.now() - started,
        sorted: points.every(({ step }, index) => !index || step > points[index - 1].step),
      };
    }"""
    found = page.evaluate(script)
    assert 900 < found["count"] <= 2000
    assert (found["first"], found["last"], found["spike"]) == (0, {"step": 49_999, "train_loss": 3}, True)
    assert (found["evaluations"], found["sorted"]) == (50, True)
    assert found["ms"] < BLOCKED_MS
