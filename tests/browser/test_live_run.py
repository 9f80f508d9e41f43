"""A run of an eval in a browser while its items are graded, beside an API alone."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from playwright.sync_api import expect

from api.context import Context
from api.eval_worker import rows
from api.eval_worker.worker import EvalWorker
from api.records.eval_items import QUEUE
from tests.browser.chromium import Visitor

EVAL: dict[str, Any] = {
    "name": "capitals",
    "data_source_config": {"type": "custom", "item_schema": {"type": "object"}, "include_sample_schema": True},
    "testing_criteria": [
        {
            "type": "string_check",
            "name": "exact",
            "operation": "eq",
            "input": "{{ sample.output_text }}",
            "reference": "{{ item.answer }}",
        }
    ],
}


def grade(context: Context, count: int) -> None:
    """Grade the next items, as the evaluation worker does."""
    worker = EvalWorker(context)
    for _ in range(count):
        with context.database.write() as session:
            claim = QUEUE.claim_item(session, "test", 60)
        assert claim is not None
        with ThreadPoolExecutor(1) as thread:  # Playwright's event loop runs in this one
            graded = thread.submit(asyncio.run, worker.answer(claim)).result()
        with context.database.write() as session:
            assert worker.finish(session, claim, graded)


def test_items_appear_while_a_run_goes_on_and_those_that_are_read_stay(
    visitor: Visitor, server: tuple[str, Context, str]
) -> None:
    address, context, key = server
    said = ["Rome", "Oslo", "Oslo", "Rome"]
    content = [{"item": {"answer": "Rome", "n": n}, "sample": {"output_text": text}} for n, text in enumerate(said)]
    source = {"type": "jsonl", "source": {"type": "file_content", "content": content}}
    with httpx.Client(base_url=f"{address}/v1", headers={"authorization": f"Bearer {key}"}) as client:
        path = f"/evals/{client.post('/evals', json=EVAL).json()['id']}/runs"
        run = client.post(path, json={"name": "live", "data_source": source}).json()
    with context.database.write() as session:
        claim = QUEUE.claim(session, 60)
    assert claim is not None
    rows.read(context, claim)
    grade(context, 1)

    page = visitor.page
    page.goto(run["report_url"])
    items = page.locator("article.sample")
    expect(page.get_by_role("button", name="Passed 1")).to_have_attribute("aria-pressed", "true")
    grade(context, 1)
    expect(page.get_by_role("button", name="Failed 1")).to_have_attribute("aria-pressed", "true")
    expect(items).to_have_count(1)
    items.first.evaluate("(element) => { element.id = 'read'; }")
    grade(context, 1)
    expect(items).to_have_count(2)
    expect(items.first).to_have_id("read")
    grade(context, 1)
    expect(page.get_by_role("button", name="Passed 2")).to_be_visible()
    expect(page.get_by_role("table", name="Runs, newest first")).to_contain_text("Completed")
