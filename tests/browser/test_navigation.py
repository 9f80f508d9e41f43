"""What a reader finds again: the place in a list, and the last measured value under the pointer."""

from playwright.sync_api import expect
from sqlalchemy import insert

from api.context import Context
from api.records import charted_steps
from api.records.jobs import Job
from api.spec.lifecycle import JobStatus
from tests.browser.chromium import Visitor
from tests.events import add_events
from tests.factories import a_job, a_project

Server = tuple[str, Context, str]
JOBS = 150


def test_back_returns_to_the_same_rows_of_a_list(visitor: Visitor, server: Server) -> None:
    _, context, _ = server
    project = a_project(context.database)
    the_first = a_job(context.database, project)
    with context.database.write() as session:
        job = session.get_one(Job, the_first)
        shared = {"project_id": project, "status": "succeeded", "recipe": job.recipe, "base_model": "tiny"}
        fixed = {**shared, "training_file": "file-none", "seed": 0, "model_id": "ft:tiny:attune::x"}
        rows = [{**fixed, "id": f"ftjob-listed-{number}", "created_at": 1e9 + number} for number in range(JOBS)]
        session.execute(insert(Job), rows)
    page = visitor.page
    page.goto("/jobs?search=listed")
    page.get_by_role("button", name="more").click()
    expect(page.locator("tbody tr")).to_have_count(JOBS)
    page.get_by_role("link", name="ftjob-listed-10", exact=True).click()
    expect(page.get_by_role("heading", name="ftjob-listed-10")).to_be_visible()
    assert page.evaluate("scrollY") == 0
    page.go_back()
    expect(page.locator("tbody tr")).to_have_count(JOBS)
    expect(page.get_by_role("link", name="ftjob-listed-10", exact=True)).to_be_in_viewport()
    page.go_forward()
    expect(page.get_by_role("heading", name="ftjob-listed-10")).to_be_visible()


def test_between_two_evaluations_the_crosshair_shows_the_first(visitor: Visitor, server: Server) -> None:
    database = server[1].database
    job_id = a_job(database, a_project(database), JobStatus.RUNNING)
    with database.write() as session:
        charted_steps.add(session, job_id, "Step 0", {"step": 0, "train_loss": 2.0, "valid_loss": 1.25})
    add_events(database, job_id, 20, start=1)
    page = visitor.page
    page.goto(f"/jobs/{job_id}")
    page.locator(".u-over").first.hover()
    expect(page.locator("figure.chart .reading").first).to_contain_text("validation 1.25")
