"""Views that stay open: what they show follows the server, and what is read or typed keeps its place."""

import json
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect
from sqlalchemy import insert

from api.context import Context
from api.records import keys as key_records
from api.records.eval_runs import EvalRun
from api.records.jobs import Job
from api.records.webhook_deliveries import Delivery
from api.records.webhooks import Webhook
from api.services import keys
from api.spec.job import JobProgress
from api.spec.lifecycle import JobStatus
from api.spec.recipe import Recipe
from tests.api.routes.test_job_evals import evaluated
from tests.browser.chromium import Visitor
from tests.factories import a_base_model, a_job, a_project

Server = tuple[str, Context, str]
JOBS = 120
PROGRESS: JobProgress = {"step": 1, "total_steps": 10, "phase": "training"}


HELD = """
const { setTimeout: real } = window, held = [];
window.setTimeout = (run, ms = 0, ...values) => (ms < 1000 ? real(run, ms, ...values) : held.push(run));
window.tick = () => held.splice(0).forEach((run) => run());
"""
"""Timers of a second and more end when `tick` is called."""


@pytest.fixture
def page(visitor: Visitor) -> Page:
    visitor.page.add_init_script(HELD)
    return visitor.page


def tick(page: Page, url: str) -> None:
    """End all timers of the page. Return after the response to the request that follows."""
    with page.expect_response(lambda response: url in response.url):
        page.evaluate("tick()")


def a_running_job(context: Context, **values: Any) -> str:
    project = a_project(context.database)
    return a_job(context.database, project, JobStatus.RUNNING, owner="w", progress=PROGRESS, **values)


def test_the_oldest_jobs_of_a_long_list_are_asked_for_again(page: Page, server: Server) -> None:
    context = server[1]
    running = a_running_job(context)
    with context.database.write() as session:
        job = session.get_one(Job, running)
        job.created_at = 1e9
        shared = {"project_id": job.project_id, "status": "queued", "recipe": job.recipe, "base_model": "tiny"}
        fixed = {**shared, "training_file": "file-none", "seed": 0, "model_id": "ft:tiny:attune::x"}
        rows = [{**fixed, "id": f"ftjob-swept-{number}", "created_at": 2e9 + number} for number in range(JOBS)]
        session.execute(insert(Job), rows)
    page.goto("/jobs")
    page.get_by_role("button", name="more").click()
    row = page.get_by_role("row", name=running)
    expect(row).to_contain_text("Step 1 of 10")
    with context.database.write() as session:
        session.get_one(Job, running).progress = {**PROGRESS, "step": 7}
    for _ in range(3):
        tick(page, "/fine_tuning/jobs?")
        page.wait_for_timeout(100)  # until the view has set its next timer
    expect(row).to_contain_text("Step 7 of 10")

    boxes = page.get_by_label("Compare ftjob-swept")
    for number in range(6):
        boxes.nth(number).check()
    boxes.nth(6).click()
    expect(boxes.nth(6)).not_to_be_checked()
    expect(page.get_by_role("link", name="Compare 6 jobs")).to_be_visible()
    page.keyboard.press("j")
    expect(page.locator("tr:focus")).to_have_count(1)


def test_a_log_that_grows_leaves_its_reader_where_he_is(page: Page, server: Server) -> None:
    attempts = ["preparing from 2026-11-03T14:03:20+00:00 on my_host:prepare: prepared\nread\n"]
    attempts += ["training from 2026-11-03T14:04:20+00:00 on my_host:train: so far\n" + 200 * "step\n"]
    away = False

    def answer(route: Route) -> None:
        if away:
            route.fulfill(status=503, json={"error": {"message": "The storage is away."}})
        else:
            route.fulfill(body="".join(f"=== {attempt}" for attempt in attempts))

    page.route("**/log", answer)
    page.goto(f"/jobs/{a_running_job(server[1])}")
    page.get_by_text("Show the trainers' log").click()
    first, last = page.locator(".log details").first, page.locator(".log details").last
    expect(first.locator("summary")).to_contain_text("on my_host:prepare")
    first.locator("summary").click()
    text = last.locator("pre")
    assert text.evaluate("(element) => element.scrollTop + element.clientHeight >= element.scrollHeight - 8")
    text.evaluate("(element) => { element.scrollTop = 300; }")

    attempts[1] += "another step\n"
    tick(page, "/log")
    expect(text).to_contain_text("another step")
    assert text.evaluate("(element) => element.scrollTop") == 300
    expect(first).to_have_attribute("open", "")
    away = True
    tick(page, "/log")
    away = False
    attempts[1] += "a step after the outage\n"
    page.wait_for_timeout(100)
    tick(page, "/log")
    expect(text).to_contain_text("a step after the outage")


def test_the_answers_of_a_batch_appear_after_a_request_that_failed(page: Page) -> None:
    counts, status = {"total": 1, "completed": 1, "failed": 0}, "in_progress"
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    refused = iter([503])

    def batch(route: Route) -> None:
        found = {"id": "batch_1", "status": status, "model": "tiny", "endpoint": "/v1/chat/completions"}
        files = {"input_file_id": "file-in", "output_file_id": "file-out", "error_file_id": None}
        route.fulfill(
            json={**found, **files, "errors": None, "request_counts": counts, "usage": usage, "created_at": 1,
                  "expires_at": 2, "completed_at": None, "metadata": None}
        )  # fmt: skip

    def content(route: Route) -> None:
        line = {"custom_id": "one", "response": {"body": {"choices": [{"text": "Rome"}]}}}
        if (refusal := next(refused, None)) is not None:
            route.fulfill(status=refusal, json={"error": {"message": "The storage is away."}})
        else:
            route.fulfill(body=json.dumps(line) + "\n")

    page.route("**/v1/batches/batch_1", batch)
    page.route("**/v1/files/file-out/content", content)
    page.goto("/batches/batch_1")
    expect(page.get_by_text("In progress")).to_be_visible()
    status = "completed"
    for _ in range(2):
        tick(page, "file-out/content")
        page.wait_for_timeout(100)
    expect(page.get_by_role("table", name="First answers")).to_contain_text("Rome")


def test_a_reader_who_comes_back_sees_what_is_new_at_once(page: Page) -> None:
    show = "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true }); "
    show += "document.dispatchEvent(new Event('visibilitychange')); }"
    page.goto("/usage")
    expect(page.get_by_text("Nothing was used")).to_be_visible()
    page.wait_for_timeout(100)  # until the view has set its next timer
    page.evaluate(show, True)
    page.evaluate("tick()")
    with page.expect_request("**/v1/usage?**"):
        page.evaluate(show, False)


def test_a_zoomed_chart_is_drawn_again_when_its_values_change(page: Page) -> None:
    page.goto("/jobs")
    script = """async () => {
      const own = document.querySelector("script[type=module]").src;
      const { chart } = await import(new URL("line-chart.js", own));
      const drawn = chart({ title: "Loss", group: "test", series: [{ label: "loss" }] });
      document.querySelector("main").append(drawn.element);
      const frame = () => new Promise((resolve) => { requestAnimationFrame(() => setTimeout(resolve)); });
      const picture = async (values) => {
        drawn.update([1, 2, 3, 4], [values], { log: false }, [2, 3]);
        for (let count = 0; count < 5; count += 1) await frame();
        return drawn.element.querySelector("canvas").toDataURL();
      };
      const before = await picture([4, 3, 2, 1]), after = await picture([4, 3, 9, 8]);
      return [before === after, await picture([4, 3, 9, 8]) === after];
    }"""
    assert page.evaluate(script) == [False, True]


def test_lines_of_findings_are_whole_numbers(page: Page) -> None:
    page.goto("/jobs")
    script = """async () => {
      const own = document.querySelector("script[type=module]").src;
      const { findings } = await import(new URL("findings.js", own));
      const examples = [12345, 23456].map((line) => ({ line, message: "twice", text: "{}", cut: false }));
      const group = { code: "duplicate", severity: "warning", count: 2, lines: [12345, 23456], examples };
      const parts = findings({ status: "done", container: "jsonl", findings: [group] });
      document.querySelector("main").append(...parts.filter(Boolean));
    }"""
    page.evaluate(script)
    expect(page.locator("ul.findings summary")).to_contain_text("lines 12,345, 23,456")
    expect(page.locator("ul.findings .line-number").first).to_have_text("12,345")


def test_a_clone_trains_without_clipping_like_its_original(page: Page, server: Server) -> None:
    recipe = Recipe(model="tiny", training_file="file-none", training={"max_grad_norm": None, "max_length": 16384})
    job_id = a_running_job(server[1], recipe=recipe.model_dump(mode="json"))
    page.goto(f"/new?from={job_id}")
    expect(page.get_by_label("Max grad norm")).to_have_value("none")
    page.get_by_text("Copy as").click()
    page.get_by_role("button", name="curl").click()
    assert '"max_grad_norm": null' in page.evaluate("navigator.clipboard.readText()")
    page.goto(f"/jobs/{job_id}")
    expect(page.get_by_text("length 16,384")).to_be_visible()


def test_broken_json_does_not_take_the_focus_while_one_types_elsewhere(page: Page) -> None:
    page.goto("/new")
    page.get_by_text("Validation file, name, seed and more").click()
    page.get_by_label("Metadata").fill("{broken")
    suffix = page.get_by_label("Suffix")
    suffix.press_sequentially("cards")
    expect(page.locator("aside")).to_contain_text("A field holds no JSON")
    expect(suffix).to_be_focused()
    page.get_by_role("button", name="Create job").click()
    expect(page.get_by_label("Metadata")).to_be_focused()


def test_what_was_typed_before_includes_the_technique(page: Page) -> None:
    page.goto("/new")
    page.get_by_text("Technique", exact=True).first.click()
    page.get_by_label("Technique", exact=True).select_option("full")
    page.reload()
    expect(page.get_by_label("Technique", exact=True)).to_have_value("full")


def test_a_sign_out_that_fails_says_so(page: Page) -> None:
    away = {"error": {"message": "The database is away."}}
    page.route(
        "**/session",
        lambda route: route.fulfill(status=503, json=away) if route.request.method == "DELETE" else route.continue_(),
    )
    page.goto("/jobs")
    page.locator("details.account summary").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("alert")).to_contain_text("You are still signed in: The database is away.")
    expect(page.get_by_label("API key")).to_have_count(0)


def test_an_old_live_key_is_found_behind_revoked_ones(page: Page, server: Server) -> None:
    context, project = server[1], a_project(server[1].database)
    keys.create(context, project="default", name="the oldest", scope="read")
    with context.database.write() as session:
        for _ in range(101):
            key, _ = key_records.create(session, project, name="of a day", scope="read")
            session.flush()
            key_records.revoke(session, key.id)
    page.goto("/keys")
    page.get_by_role("button", name="Show more").click()
    expect(page.get_by_role("row", name="the oldest")).to_contain_text("Live")


def test_an_address_with_a_broken_escape_is_a_name_that_does_not_exist(page: Page) -> None:
    page.goto("/models/100%")
    expect(page.get_by_role("alert")).to_contain_text("100%")
    expect(page.get_by_role("button", name="Keyboard")).to_be_visible()


def test_a_month_of_a_link_is_the_month_that_is_shown(page: Page) -> None:
    page.goto("/usage?month=2025-02")
    expect(page.get_by_label("Month")).to_have_value("2025-02")
    expect(page.get_by_text("Nothing was used in February 2025.")).to_be_visible()


def test_the_score_of_an_ended_jobs_eval_appears_by_itself(page: Page, server: Server) -> None:
    job = evaluated(server[1], [("in_progress", 0)])
    page.goto(f"/jobs/{job.id}")
    about = page.get_by_label("About the job")
    expect(about).to_contain_text("Results")
    assert job.eval_runs
    with server[1].database.write() as session:
        run = session.get_one(EvalRun, job.eval_runs[0]["run_id"])
        run.status, run.passed = "completed", 3
    page.wait_for_timeout(100)  # until the view has set its next timer
    tick(page, f"/jobs/{job.id}")
    expect(about).to_contain_text("75 %")


def test_files_with_long_reports_do_not_end_the_list(page: Page) -> None:
    """The server cuts a page at some megabytes, however many files are asked for."""

    def answer(route: Route) -> None:
        number = 2 if "after=" in route.request.url else 1
        file = {"id": f"file-{number}", "filename": f"{number}.jsonl", "bytes": 1, "created_at": 9 - number}
        route.fulfill(json={"data": [file | {"scan": None}], "has_more": number == 1})

    page.route("**/v1/files?**", answer)
    page.goto("/files")
    expect(page.get_by_role("link", name="1.jsonl")).to_be_visible()
    expect(page.get_by_role("link", name="2.jsonl")).to_be_visible()


def test_usage_shows_the_last_choice_even_if_an_earlier_answer_comes_later(page: Page) -> None:
    line = {"start_time": 1, "project_id": "p", "key_id": "key_1", "model": "tiny", "trained_tokens": 7}
    line |= dict.fromkeys(("cpu_seconds", "gpu_seconds", "prompt_tokens", "completion_tokens", "stored_bytes"), 0)
    late: list[Route] = []

    def answer(route: Route) -> None:
        if "group_by=key" in route.request.url and not late:
            late.append(route)
        else:
            route.fulfill(json={"budgets": [], "data": [line]})

    page.route("**/v1/usage?**", answer)
    page.goto("/usage")
    page.get_by_role("button", name="By key").click()
    page.get_by_role("button", name="By model").click()
    expect(page.get_by_role("link", name="tiny")).to_be_visible()
    with page.expect_response("**/v1/usage?**group_by=key"):
        late[0].fulfill(json={"budgets": [], "data": [{**line, "model": None, "key_name": "nightly"}]})
    page.wait_for_timeout(100)  # until the view has read it
    expect(page.get_by_role("link", name="tiny")).to_be_visible()


def test_a_delivery_behind_the_newest_hundred_can_be_sent_again(page: Page, server: Server) -> None:
    context, project = server[1], a_project(server[1].database)
    shared = {"webhook_id": "webhook_1", "event_type": "batch.completed", "object_id": "batch_1", "attempts": 1}
    rows = [
        {**shared, "id": f"whd_{n}", "event_id": f"evt_{n}", "created_at": 1e9 + n, "status": "delivered"}
        for n in range(101)
    ]
    rows[0] |= {"status": "failed"}
    hook = {"id": "webhook_1", "project_id": project, "name": "alerts", "url": "https://example.com/", "secret": "s"}
    with context.database.write() as session:
        session.add(Webhook(**hook, event_types=["batch.completed"], created_at=1e9, updated_at=1e9))
        session.flush()
        session.execute(insert(Delivery), rows)
    page.goto("/webhooks/webhook_1")
    page.get_by_role("button", name="Show more").click()
    expect(page.get_by_role("row", name="Failed").get_by_role("button", name="Send again")).to_be_visible()


def test_the_form_of_a_new_job_asks_for_its_file_again_after_an_error(page: Page) -> None:
    found = {"id": "file-old", "object": "file", "filename": "old.jsonl", "created_at": 1, "scan": None}
    refused = iter([503])

    def answer(route: Route) -> None:
        if (refusal := next(refused, None)) is not None:
            route.fulfill(status=refusal, json={"error": {"message": "The database is away."}})
        else:
            route.fulfill(json=found)

    page.route("**/v1/files/file-old", answer)
    with page.expect_response("**/v1/files/file-old"):
        page.goto("/new?file=file-old")
    page.wait_for_timeout(100)  # until the form has set its timer
    tick(page, "/v1/files/file-old")
    expect(page.get_by_label("Training file")).to_contain_text("old.jsonl")


def test_a_file_without_a_row_to_train_on_shows_the_reason(page: Page, server: Server) -> None:
    a_base_model(server[1].database)
    scan = {"status": "done", "rows": 2, "format": "prompt_completion", "container": "jsonl", "finding_counts": {}}
    file = {"id": "file-1", "filename": "rows.jsonl", "purpose": "fine-tune", "bytes": 9, "created_at": 1}
    none = dict.fromkeys(("kept_rows", "tokens", "supervised_tokens", "longest", "truncated_rows"), 0)
    train = {**none, "rows": 2, "sampled_rows": 2, "dropped_rows": 2, "lengths": {"width": 1, "rows": []}}
    reason = "No row is left to train on after truncation to 8 tokens."
    page.route("**/v1/files/file-1", lambda route: route.fulfill(json={**file, "scan": {**scan, "findings": []}}))
    report = {**scan, "findings": [], "errors": 0, "warnings": 0, "error": None}
    page.route("**/v1/files/file-1/report", lambda route: route.fulfill(json=report))
    answer = {"train": train, "max_length": None, "reasons": [{"message": reason}]}
    page.route("**/v1/fine_tuning/estimates", lambda route: route.fulfill(json=answer))
    refusal = {"error": {"message": "The rows cannot be shown."}}
    page.route("**/v1/fine_tuning/previews", lambda route: route.fulfill(status=400, json=refusal))
    page.goto("/files/file-1")
    expect(page.get_by_text(reason)).to_be_visible()
    expect(page.get_by_text("Rows left out")).to_be_visible()
    expect(page.get_by_text("All rows have")).to_have_count(0)


def test_a_view_that_stays_open_collects_no_listeners(page: Page) -> None:
    page.add_init_script("""
    window.kept = 0;
    for (const [name, by] of [["addEventListener", 1], ["removeEventListener", -1]]) {
      const real = AbortSignal.prototype[name];
      AbortSignal.prototype[name] = function (...values) { window.kept += by; return real.apply(this, values); };
    }
    """)
    page.goto("/usage")
    expect(page.get_by_text("Nothing was used")).to_be_visible()
    kept = []
    for _ in range(3):
        page.wait_for_timeout(100)  # until the view has set its next timer
        kept.append(page.evaluate("kept"))
        tick(page, "/v1/usage?")
    assert kept[0] == kept[1] == kept[2]


def test_a_new_run_keeps_the_rows_and_the_model_that_no_list_has(page: Page, server: Server) -> None:
    job = evaluated(server[1], [("completed", 3), ("completed", 4)])
    assert job.eval_runs
    with server[1].database.write() as session:
        session.delete(session.get_one(EvalRun, job.eval_runs[0]["run_id"]))
    found = {"id": job.eval_runs[1]["eval_id"], "name": "cards", "testing_criteria": []}
    found["data_source_config"] = {"schema": {"properties": {"item": {}}}}
    page.route(f"**/v1/evals/{found['id']}", lambda route: route.fulfill(json=found))
    page.goto(f"/evals/{found['id']}")
    expect(page.get_by_role("table", name="Runs")).to_contain_text("Completed")
    page.get_by_role("button", name="New run").click()
    expect(page.get_by_label("Rows")).to_have_value("file-rows")
    expect(page.get_by_role("dialog").get_by_label("Model")).to_have_value(f"{job.fine_tuned_model}:ckpt-step-5")
