"""The views of files, new jobs, models, keys, webhooks and the service, in a real browser beside a real Attune."""

import json
import re
import tarfile
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


def drop(page: Page, name: str, content: bytes) -> None:
    """Drop a file of text on the view."""
    script = "([name, text]) => { const all = new DataTransfer(); all.items.add(new File([text], name)); return all; }"
    transfer = page.evaluate_handle(script, [name, content.decode()])
    page.locator("main > .view").dispatch_event("drop", {"dataTransfer": transfer})


def test_a_broken_file_becomes_a_model_that_answers_and_is_downloaded(
    browser: Browser, live_server: AttuneUp, client: OpenAI, tmp_path: Path
) -> None:
    visitor = Visitor(browser, live_server.base_url)
    page = visitor.page
    page.goto("/files")
    page.get_by_label("API key").fill(live_server.api_key)
    page.get_by_role("button", name="Sign in").click()
    understand_a_broken_file(page)
    create_a_job_of_the_mended_file(page)
    job = client.fine_tuning.jobs.retrieve(page.url.rpartition("/")[2])
    created: Any = job.to_dict()
    assert (created["user_provided_suffix"], created["training"]["max_steps"]) == ("mended", 40)
    expect(page.locator(".verdict")).to_contain_text("than tiny: loss", timeout=120_000)
    expect(page.locator("article.sample").first).to_contain_text("Tuned")
    with page.expect_download() as download:
        page.get_by_role("link", name="Adapter", exact=True).click()
    with tarfile.open(download.value.path()) as archive:
        (config,) = (member for member in archive if member.name.endswith("adapter_config.json"))
        assert json.loads(archive.extractfile(config).read())["peft_type"] == "LORA"  # type: ignore[union-attr]
    talk_to_the_model(page, str(client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model))
    page.goto(f"/new?from={job.id}")
    expect(page.get_by_label("Suffix")).to_have_value("mended")
    visitor.context.close()
    assert visitor.foreign == visitor.faults == []


def understand_a_broken_file(page: Page) -> None:
    """Drop a file with a broken row, and read what is wrong with it."""
    expect(page.get_by_role("heading", name="Files")).to_be_visible()
    drop(page, "broken.jsonl", rows(12) + BROKEN + 3 * rows(1, seed=9))
    expect(page.get_by_role("heading", name="broken.jsonl")).to_be_visible()
    expect(page.get_by_role("heading", name="1 error, 2 warnings")).to_be_visible()
    expect(page.locator("pre.source").first).to_have_text(BROKEN.decode().strip())
    expect(page.get_by_text("2 × duplicate")).to_be_visible()
    expect(page.locator("mark.loss").nth(1)).to_be_visible()
    assert serious_faults(page) == []


def create_a_job_of_the_mended_file(page: Page) -> None:
    page.goto("/new")
    expect(page.get_by_role("heading", name="New job")).to_be_visible()
    drop(page, "mended.jsonl", json.dumps(ROW).encode() + b"\n" + rows(32))
    expect(page.get_by_label("Training file").locator("option:checked")).to_contain_text("mended.jsonl")
    expect(page.locator("aside")).to_contain_text("Training time")
    # Characters that several tokens share are shown whole.
    expect(page.locator("aside mark.loss").nth(1)).to_contain_text(ANSWER)
    page.get_by_text("Options of the method").click()
    page.get_by_label("Epochs").fill("50")
    page.get_by_label("Batch size").fill("1")
    page.get_by_text("Training", exact=True).click()
    assert page.get_by_label("Learning rate", exact=True).get_attribute("placeholder") == "auto: 2e-4"
    page.get_by_label("Learning rate", exact=True).fill("-1")
    field = page.locator(".field", has=page.get_by_label("Learning rate", exact=True))
    expect(field).to_contain_text("greater than 0")
    page.get_by_label("Learning rate", exact=True).fill("1e-3")
    page.get_by_label("Max steps").fill("40")
    page.get_by_label("Validation split").fill("0.2")
    page.get_by_text("Validation file, name, seed and more").click()
    page.get_by_label("Suffix").fill("mended")
    page.get_by_text("Copy as").click()
    page.get_by_role("button", name="curl").click()
    copied = str(page.evaluate("navigator.clipboard.readText()"))
    assert '"learning_rate": 0.001' in copied
    assert serious_faults(page) == []
    page.get_by_role("button", name="Create job").click()
    page.wait_for_url("**/jobs/ftjob-*")


def talk_to_the_model(page: Page, model: str) -> None:
    """Open the model from its job, ask it and its base, and delete it."""
    page.get_by_role("link", name="Chat").click()
    expect(page.locator("h1")).to_have_text(model)
    page.get_by_label("Message", exact=True).fill("abcd efgh")
    page.keyboard.press("Enter")
    expect(page.get_by_text(re.compile("tokens? in .* s"))).to_have_count(2)
    assert serious_faults(page) == []
    page.get_by_text("Model card").click()
    expect(page.get_by_role("article").get_by_role("heading", name="Load the model")).to_be_visible()
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("dialog")).to_contain_text(f"Delete model {model}?")
    page.get_by_role("button", name="Delete model").click()
    page.wait_for_url("**/models")
    expect(page.get_by_text(model)).to_be_hidden()


def test_the_fields_of_a_grader_follow_its_type(page: Page) -> None:
    page.goto("/new")
    page.get_by_text("More methods").click()
    page.locator("input[value=reinforcement]").check()
    page.get_by_text("Options of the method").click()
    page.get_by_label("Grader required").select_option("string_check")
    page.get_by_label("Reference required").fill("{{ item.answer }}")
    page.get_by_text("Copy as").click()
    page.get_by_role("button", name="curl").click()
    assert '"reference": "{{ item.answer }}"' in str(page.evaluate("navigator.clipboard.readText()"))
    page.get_by_label("Grader required").select_option("python")
    expect(page.get_by_label("Reference required")).to_be_hidden()
    page.get_by_label("Source required").fill("def grade(sample, item):\n    return 1.0")
    page.reload()
    expect(page.get_by_label("Source required")).to_have_value("def grade(sample, item):\n    return 1.0")


def test_the_graders_of_several_are_fields_with_names(page: Page) -> None:
    page.goto("/new")
    page.get_by_text("More methods").click()
    page.locator("input[value=reinforcement]").check()
    page.get_by_text("Options of the method").click()
    page.get_by_label("Grader required").select_option("multi")
    page.get_by_role("button", name="Add to graders").click()
    page.get_by_label("Name in graders").fill("same")
    page.get_by_label("Type required").select_option("string_check")
    page.get_by_label("Reference required").fill("{{ item.answer }}")
    page.get_by_label("Name in graders").fill("equal")
    page.get_by_role("button", name="Add to graders").click()
    page.get_by_label("Name in graders").last.fill("judge")
    page.get_by_label("Type required").last.select_option("label_model")
    page.get_by_label("Labels required", exact=True).fill(" good\nbad\n")
    page.get_by_label("Passing labels required").fill(several := '["very\\ngood","bad"]')
    page.get_by_label("Calculate output required").fill("equal + judge")
    page.get_by_text("Copy as").click()
    page.get_by_role("button", name="curl").click()
    copied = str(page.evaluate("navigator.clipboard.readText()"))
    sent = json.loads(copied[copied.index("-d '") + 4 : copied.rindex("'")])
    graders = sent["method"]["reinforcement"]["grader"]["graders"]
    assert graders["equal"] == {"type": "string_check", "reference": "{{ item.answer }}"}
    assert graders["judge"] == {
        "type": "label_model",
        "labels": [" good", "bad"],
        "passing_labels": ["very\ngood", "bad"],
    }
    page.reload()
    expect(page.get_by_label("Name in graders").last).to_have_value("judge")
    expect(page.get_by_label("Labels required", exact=True)).to_have_value(" good\nbad")
    expect(page.get_by_label("Passing labels required")).to_have_value(several)
    page.get_by_role("button", name="Remove").first.click()
    expect(page.get_by_label("Name in graders")).to_have_count(1)


def test_a_batch_and_an_eval_show_what_came_of_them(page: Page, client: OpenAI) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "abcd"}], "max_tokens": 2}
    requests = [
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body | extra}
        for name, extra in (("good", {}), ("wrong", {"temperature": 9}))
    ]
    page.goto("/batches")
    pick(page, "requests.jsonl", "".join(json.dumps(each) + "\n" for each in requests).encode())
    page.wait_for_url("**/batches/batch_*")
    expect(page.get_by_text("1 of 2 requests answered, 1 failed")).to_be_visible(timeout=60_000)
    expect(page.get_by_role("table", name="First errors")).to_contain_text("temperature")
    expect(page.get_by_role("link", name="Download answers")).to_be_visible()
    assert serious_faults(page) == []

    similar: Any = {
        "type": "text_similarity", "name": "similar", "evaluation_metric": "fuzzy_match", "pass_threshold": 0.9,
        "input": "{{ sample.output_text }}", "reference": "{{ item.answer }}",
    }  # fmt: skip
    config: Any = {"type": "custom", "item_schema": {"type": "object"}, "include_sample_schema": True}
    found = client.evals.create(name="cities", data_source_config=config, testing_criteria=[similar])
    runs = []
    for said in (["Rome", "Oslo"], ["Rome", "Lima"]):
        content = [
            {"item": {"answer": answer}, "sample": {"output_text": text}}
            for answer, text in zip(("Rome", "Lima"), said, strict=True)
        ]
        source: Any = {"type": "jsonl", "source": {"type": "file_content", "content": content}}
        runs.append(client.evals.runs.create(found.id, name=said[1], data_source=source))
    page.goto(runs[0].report_url)
    expect(page.get_by_role("table", name="Results by criterion")).to_contain_text("50 %")
    expect(page.locator("article.sample")).to_have_count(1)
    expect(page.locator("article.sample")).to_contain_text("Oslo")
    page.get_by_label("Compare with Lima").check()
    expect(page.get_by_role("table", name="Results by criterion")).to_contain_text("50 points")
    expect(page.get_by_role("button", name="Differ 1")).to_be_visible()
    assert serious_faults(page) == []


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
    page.get_by_role("button", name="All projects").click()
    expect(page.get_by_role("row", name="default")).to_be_visible()
    page.goto("/health")
    for component in ("Database", "Schema", "Storage", "Broker", "Queue", "Disk", "Workers: train", "Versions"):
        expect(page.get_by_role("row", name=component, exact=False).first).to_contain_text("Good")
