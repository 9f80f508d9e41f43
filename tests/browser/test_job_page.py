"""The page of a job, and what leads to and from it, beside an API alone whose jobs stand still."""

from typing import Any

from playwright.sync_api import Browser, expect
from sqlalchemy import select

from api.cli.client import Client
from api.cli.open_page import create_link
from api.context import Context
from api.records import charted_steps, job_metadata
from api.records.base import db_now
from api.records.batches import Batch
from api.records.jobs import Job
from api.services import keys
from api.spec.batch import BatchStatus
from api.spec.lifecycle import JobStatus
from api.spec.recipe import Recipe
from tests.api.routes.test_job_evals import evaluated
from tests.browser.chromium import Visitor
from tests.factories import a_base_model, a_batch, a_job, a_model, a_project

Server = tuple[str, Context, str]

EVALUATED = {
    "valid_loss": 0.5,
    "valid_accuracy": 0.8,
    "valid_f1_by_class": [0.75, 1.0, 0.5],
    "valid_confusion": [[3, 0, 2], [0, 4, 0], [0, 0, 1]],
}
"""What an evaluation of a classifier reports: also lists."""
EVALUATION = {
    "rows": 10,
    "drawn_from": "validation",
    "base_model": "tiny",
    "base": {"loss": None, "accuracy": 0.5, "mean_absolute_error": 2.0, "rewards_rejected": -1.0},
    "tuned": {"loss": 0.5, "accuracy": 0.75, "mean_absolute_error": 1.0, "rewards_rejected": -2.0},
    "samples": [],
}


def a_classifier(context: Context) -> Job:
    """A job that trained a classifier, with the metrics of two steps."""
    project = a_project(context.database)
    model = a_model(context, project, method={"type": "classification"}, suffix="mail")
    with context.database.write() as session:
        job = session.scalars(select(Job).where(Job.fine_tuned_model == model)).one()
        labels = {"problem": "single_label", "names": ["a bill", "a card", "a letter"]}
        job.resolved = {**(job.resolved or {}), "labels": labels}
        job.evaluation = EVALUATION
        for step in (1, 2):
            point = {"step": step, "train_loss": 1 / step, "train_accuracy": 0.8}
            charted_steps.add(session, job.id, "Step", point | EVALUATED)
    return job


def a_job_of_maps(context: Context, method: str) -> str:
    """A job with this method and with metadata."""
    project, pairs = a_project(context.database), {"team": "maps & more"}
    recipe = Recipe(model="filtered", training_file="file-none", method={"type": method}, metadata=pairs)
    job_id = a_job(context.database, project, base_model="filtered", recipe=recipe.model_dump(mode="json"))
    with context.database.write() as session:
        job_metadata.add(session, project, job_id, session.get_one(Job, job_id).created_at, pairs)
    return job_id


def change(context: Context, table: type[Job] | type[Batch], name: str, **values: Any) -> None:
    with context.database.write() as session:
        row = session.get_one(table, name)
        for column, value in values.items():
            setattr(row, column, value)


def test_a_classifier_shows_its_classes_and_leads_to_its_model(visitor: Visitor, server: Server) -> None:
    job, page = a_classifier(server[1]), visitor.page
    page.goto(f"/jobs/{job.id}")
    classes = page.get_by_role("table", name="Classes")
    expect(classes.get_by_role("row", name="a bill")).to_contain_text("a letter 2")
    expect(page.locator("figure.chart")).to_have_count(2)  # of loss and accuracy
    changes = page.get_by_role("table", name="Metrics of the base model")
    expect(changes.get_by_role("row", name="Accuracy")).to_contain_text("+0.25 better")
    expect(changes.get_by_role("row", name="Mean absolute error")).to_contain_text("\N{MINUS SIGN}1 better")
    expect(changes.get_by_role("row", name="Rewards rejected")).not_to_contain_text("worse")
    expect(page.locator(".verdict")).to_have_text("Open model")  # a loss that is not finite proves nothing
    twin = a_classifier(server[1])
    page.goto(f"/compare?jobs={job.id},{twin.id}")
    expect(page.locator("figure.chart")).to_have_count(4)
    for one in (job, twin):
        expect(page.get_by_role("link", name=f"mail {one.id[-6:]}")).to_be_visible()
    page.go_back()
    page.get_by_role("link", name="Open model").click()
    expect(page.locator("h1")).to_have_text(str(job.fine_tuned_model))
    child = a_job(server[1].database, job.project_id, parent_model=job.fine_tuned_model)
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("dialog")).to_contain_text(f"These jobs began from it: {child}.")
    page.get_by_role("button", name="Delete model").click()
    error = page.get_by_role("alert").filter(has_text=f"is needed by {child}")
    error.get_by_role("button", name="Close the message").click()
    expect(error).to_be_hidden()


def test_settings_that_differ_in_the_fifth_digit_are_no_equal_settings(visitor: Visitor, server: Server) -> None:
    project = a_project(server[1].database)
    recipes = [
        Recipe(model="tiny", training_file="file-none", training={"learning_rate": r}) for r in (2e-4, 2.0004e-4)
    ]
    jobs = [a_job(server[1].database, project, recipe=recipe.model_dump(mode="json")) for recipe in recipes]
    visitor.page.goto(f"/compare?jobs={jobs[0]},{jobs[1]}")
    row = visitor.page.get_by_role("row", name="training.learning_rate")
    expect(row).to_contain_text("0.0002")
    expect(row).to_contain_text("0.00020004")
    visitor.page.get_by_label("Show equal settings").check()
    expect(visitor.page.get_by_role("row", name="training.max_grad_norm")).to_contain_text("1")


def test_an_error_leads_to_its_file_and_to_its_explanation(visitor: Visitor, server: Server) -> None:
    context, page = server[1], visitor.page
    error = {"code": "invalid_n_examples", "message": "The file has 2 rows", "param": "training_file"}
    job_id = a_job(context.database, a_project(context.database), JobStatus.FAILED, error=error)
    page.goto(f"/jobs/{job_id}")
    expect(page.get_by_role("alert").get_by_role("link", name="file-none")).to_have_attribute(
        "href", "/files/file-none"
    )
    page.get_by_role("link", name="invalid_n_examples").click()
    row = page.get_by_role("row", name="fewer than 10 usable examples")
    expect(row).to_be_in_viewport()
    page.get_by_role("button", name="Copy").first.click()
    assert page.evaluate("navigator.clipboard.readText()").startswith('{\n  "error"')
    page.get_by_role("link", name="Metrics", exact=True).click()
    expect(page.get_by_role("heading", name="Metrics", exact=True)).to_be_visible()
    page.locator("details.account").wait_for()
    page.keyboard.press("g")
    page.keyboard.press("j")
    expect(page.get_by_role("heading", name="Jobs")).to_be_visible()


def test_a_link_signs_in_once_and_shows_its_page(browser: Browser, server: Server) -> None:
    address, context, plain = server
    job_id = a_job(context.database, a_project(context.database))
    visitor = Visitor(browser, address)
    page = visitor.page
    with Client(f"{address}/v1", plain) as client:
        link = create_link(client, f"jobs/{job_id}")["url"]
        page.goto(link)
        expect(page.get_by_role("dialog")).to_contain_text("with the key test of project default.")
        assert visitor.context.request.get("/session").status == 401
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name=job_id)).to_be_visible()
        assert page.url == f"{address}/jobs/{job_id}"
        assert all("token" not in url.partition("#")[0] for url in visitor.requests)

        page.goto("about:blank")
        page.goto(create_link(client, f"{address}/jobs?status=failed")["url"])
        page.get_by_role("button", name="Not now").click()
        expect(page.get_by_label("Status")).to_have_value("failed")
        page.goto("about:blank")
        page.goto(create_link(client, f"https://localhost:9/jobs/{job_id}?scale=log")["url"])
        page.get_by_role("button", name="Not now").click()
        page.wait_for_url(f"{address}/jobs/{job_id}?scale=log")
        page.goto("about:blank")
        page.goto(create_link(client, f"jobs/{job_id}")["url"])
        expect(page.get_by_role("dialog")).to_contain_text("You are signed in to project default with the key test.")
        page.get_by_role("button", name="Not now").click()
        expect(page.get_by_role("heading", name=job_id)).to_be_visible()
        visitor.context.clear_cookies()
        page.goto("about:blank")
        page.goto(link)
        expect(page.get_by_role("alert")).to_contain_text("run `attune open` for another")
        page.get_by_label("API key").fill(plain)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name=job_id)).to_be_visible()
    visitor.context.close()
    assert visitor.foreign == visitor.faults == []


def test_filters_of_the_list_are_kept_by_its_address(visitor: Visitor, server: Server) -> None:
    context, page = server[1], visitor.page
    a_base_model(context.database, "filtered")
    found = [a_job_of_maps(context, method) for method in ("dpo", "dpo", "kto")]
    rows = page.locator("tbody tr")
    page.goto("/jobs")
    page.get_by_label("Metadata, as key=value").fill("team=maps & more")
    page.keyboard.press("Enter")
    expect(rows).to_have_count(3)
    page.get_by_label("Method").select_option("DPO")
    page.get_by_label("Model").select_option("filtered")
    page.get_by_label("Created").select_option("Last 7 days")
    expect(rows).to_have_count(2)
    expect(page.get_by_label("Compare " + found[2])).to_be_hidden()

    # A new job of that kind appears by itself, and another one does not.
    newest = a_job_of_maps(context, "dpo")
    a_job(context.database, a_project(context.database))
    expect(rows).to_have_count(3)
    page.get_by_role("link", name=newest).click()
    expect(page.get_by_role("heading", name=newest)).to_be_visible()
    page.go_back()
    expect(rows).to_have_count(3)
    page.reload()
    expect(rows).to_have_count(3)
    expect(page.get_by_label("Method")).to_have_value("dpo")
    page.get_by_role("button", name="Remove the filter team = maps & more").click()
    page.get_by_label("Status").select_option("Paused")
    page.get_by_role("button", name="Clear the filters").click()
    expect(page.get_by_label("Model")).to_have_value("")
    assert page.url.endswith("/jobs")
    page.goto(f"/jobs/{newest}")
    page.get_by_role("link", name="maps & more").click()
    expect(page.get_by_label("Compare " + found[2])).to_be_visible()


def test_a_running_job_says_how_long_and_that_it_pauses(visitor: Visitor, server: Server) -> None:
    context, page = server[1], visitor.page
    progress = {"step": 1, "total_steps": 10, "phase": "training"}
    given = {"owner": "w", "estimated_finish": db_now() + 1020, "progress": progress}
    job_id = a_job(context.database, a_project(context.database), JobStatus.RUNNING, **given)
    page.goto("/jobs")
    expect(page.get_by_role("row", name=job_id)).to_contain_text("12 to 27 min left")
    choice = page.get_by_label(f"Compare {job_id}")
    choice.focus()
    change(context, Job, job_id, progress=progress | {"step": 5})
    expect(page.get_by_text("Step 5 of 10")).to_be_visible()
    expect(choice).to_be_focused()

    page.goto(f"/jobs/{job_id}")
    expect(page.locator(".verdict")).to_contain_text("12 to 27 min left")
    page.get_by_role("button", name="Pause").wait_for()
    page.keyboard.press("p")
    expect(page.get_by_role("dialog")).to_contain_text(f"Pause {job_id}?")
    page.get_by_role("button", name="Pause job").click()
    expect(page.locator(".verdict")).to_contain_text("Pausing: saves its state first")
    expect(page.locator("h1 + p")).to_contain_text("Pausing")
    expect(page.get_by_role("button", name="Pause")).to_be_hidden()


def test_a_button_of_a_batch_keeps_the_focus_while_answers_come(visitor: Visitor, server: Server) -> None:
    context, page = server[1], visitor.page
    batch = a_batch(context, a_project(context.database), BatchStatus.IN_PROGRESS, total=2, model="tiny")
    page.goto(f"/batches/{batch}")
    cancel = page.get_by_role("button", name="Cancel …")
    page.goto("/jobs/")
    page.get_by_role("button", name="Keyboard").wait_for()
    page.keyboard.press("Control+k")
    page.keyboard.type(batch)
    page.keyboard.press("Enter")
    cancel.focus()
    change(context, Batch, batch, completed=1)
    expect(page.get_by_text("1 of 2 requests answered")).to_be_visible()
    expect(cancel).to_be_focused()
    expect(page.get_by_role("navigation").get_by_role("link", name="Batches")).to_have_attribute("aria-current", "page")


def test_a_new_job_has_only_settings_that_are_shown(visitor: Visitor, server: Server) -> None:
    job, page = a_classifier(server[1]), visitor.page
    suffix = page.get_by_label("Suffix")
    page.goto("/new")
    page.get_by_text("Validation file, name, seed and more").click()
    suffix.fill("typed")
    page.goto("/new?file=file-none")
    expect(suffix).to_be_hidden()
    expect(suffix).to_have_value("")
    page.goto(f"/new?from={job.id}")
    expect(page.get_by_text("With the settings of")).to_be_visible()
    expect(suffix).to_have_value("mail")
    expect(page.get_by_label("Seed")).to_have_value("")
    page.goto("/new")
    expect(suffix).to_be_visible()
    expect(suffix).to_have_value("typed")
    page.get_by_role("button", name="Start over").click()
    expect(suffix).to_have_value("")


def test_a_secret_is_copied_where_browsers_offer_no_clipboard(visitor: Visitor) -> None:
    page = visitor.page
    page.goto("/keys")
    page.evaluate("window.real = navigator.clipboard")
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.get_by_role("button", name="New key").click()
    page.get_by_label("Name").fill("plain http")
    page.get_by_role("button", name="Create key").click()
    secret = page.get_by_role("textbox", name="Key plain http").input_value()
    page.get_by_role("button", name="Copy", exact=True).click()
    expect(page.get_by_text("Copied")).to_be_visible()
    assert page.evaluate("real.readText()") == secret
    page.evaluate("document.execCommand = () => false")
    page.get_by_role("button", name="Copy", exact=True).click()
    expect(page.get_by_text("Select the text and copy it.")).to_be_visible()


def test_buttons_that_write_are_unseen_until_the_sessions_rights_are_known(visitor: Visitor, server: Server) -> None:
    job, page = a_classifier(server[1]), visitor.page
    page.route("**/session", lambda route: None)  # no answer
    page.goto(f"/jobs/{job.id}")
    expect(page.get_by_role("link", name="Open model")).to_be_visible()
    expect(page.get_by_text("Clone", exact=True)).to_be_hidden()
    page.unroute_all(behavior="ignoreErrors")
    page.reload()
    expect(page.get_by_text("Clone", exact=True)).to_be_visible()


def test_the_key_of_a_project_sees_no_other_projects(visitor: Visitor) -> None:
    page = visitor.page
    page.goto("/usage")
    expect(page.get_by_role("button", name="By model")).to_be_visible()
    expect(page.get_by_role("button", name="All projects")).to_have_count(0)
    page.goto("/health")
    expect(page.get_by_role("row", name="Database and storage")).to_contain_text("Good")
    expect(page.get_by_role("row", name="Workers: train").locator("code").last).to_have_text(
        "attune worker --stage train"
    )
    expect(page.get_by_role("row", name="Broker")).to_have_count(0)


def test_a_key_that_only_reads_sees_no_buttons_that_write(visitor: Visitor, server: Server) -> None:
    job, page = a_classifier(server[1]), visitor.page
    visitor.sign_in(keys.create(server[1], project="default", name="reader", scope="read")[1])
    page.goto(f"/jobs/{job.id}")
    expect(page.get_by_role("link", name="Open model")).to_be_visible()
    for name in ("Rerun …", "Clone"):
        expect(page.get_by_text(name, exact=True)).to_be_hidden()
    page.keyboard.press("r")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("link", name="Open model").click()
    expect(page.locator("h1")).to_have_text(str(job.fine_tuned_model))
    expect(page.get_by_role("button", name="Delete")).to_be_hidden()


def test_a_checkpoint_shows_its_score_by_the_jobs_eval(visitor: Visitor, server: Server) -> None:
    job = evaluated(server[1], [("completed", 1), ("completed", 3)])
    visitor.page.goto(f"/jobs/{job.id}")
    score = visitor.page.get_by_role("table", name="Checkpoints").get_by_role("row", name="5")
    expect(score).to_contain_text("best 75 %")
    expect(visitor.page.get_by_label("About the job")).to_contain_text("25 %")
