"""A chat with a model, in a real browser before scripted answers."""

import json

from playwright.sync_api import Route, expect

from api.context import Context
from api.records.jobs import Job
from api.records.models import Model
from tests.browser.chromium import Visitor
from tests.factories import a_base_model, a_file, a_model, a_project


def test_reasoning_is_folded_above_its_answer(visitor: Visitor, server: tuple[str, Context, str]) -> None:
    model = a_base_model(server[1].database)
    deltas = [{"reasoning_content": "Six and one."}, {"content": "Se"}, {"content": "ven"}]
    chunks = [json.dumps({"choices": [{"delta": delta}]}) for delta in deltas]
    events = "".join(f"data: {chunk}\n\n" for chunk in [*chunks, "[DONE]"])
    sent: list[str | None] = []

    def answer(route: Route) -> None:
        sent.append(route.request.post_data)
        route.fulfill(content_type="text/event-stream", body=events)

    page = visitor.page
    page.route("**/v1/chat/completions", answer)
    page.goto(f"/models/{model}")
    page.get_by_text("Settings", exact=True).click()
    page.get_by_label("System message").fill("Count.")
    page.get_by_text("Copy as").last.click()
    page.get_by_role("button", name="CLI").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    command = page.evaluate("navigator.clipboard.readText()")
    assert command == f"attune chat {model} 'Hello' --temperature 0 --max-tokens 128 --system 'Count.'"
    for number in (1, 2):
        page.get_by_label("Message", exact=True).fill("What is 6 + 1?")
        page.keyboard.press("Enter")
        expect(page.get_by_text("Seven", exact=True)).to_have_count(number)
    thoughts = page.get_by_text("Six and one.").first
    expect(thoughts).to_be_hidden()
    page.get_by_text("Reasoning", exact=True).first.click()
    expect(thoughts).to_be_visible()
    assert "Six and one." not in str(sent[1]), "earlier reasoning is not sent again"


def test_a_tuned_model_is_asked_with_the_system_message_of_its_training(
    visitor: Visitor, server: tuple[str, Context, str]
) -> None:
    context, project = server[1], a_project(server[1].database)
    message = "Count,\r\nas ever.\n"
    row = {"messages": [{"role": "system", "content": message}, {"role": "user", "content": "1"}]}
    file = a_file(context, project, json.dumps(row).encode() + b"\n{}\n" * 50_000)
    model = a_model(context, project)
    with context.database.write() as session:
        session.get_one(Job, session.get_one(Model, model).job_id).training_file = file
    visitor.page.goto(f"/models/{model}")
    expect(visitor.page.get_by_label("System message")).to_have_value("Count,\nas ever.\n")
    expect(visitor.page.get_by_text("that of the first training row")).to_be_visible()
    for change, expected in ((None, message), ("Add.\n", "Add.\n")):
        if change:
            visitor.page.get_by_label("System message").fill(change)
        visitor.page.get_by_label("Message", exact=True).fill("2")
        with visitor.page.expect_request("**/v1/chat/completions") as asked:
            visitor.page.keyboard.press("Enter")
        assert json.loads(asked.value.post_data or "")["messages"][0] == {"role": "system", "content": expected}
