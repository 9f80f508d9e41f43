"""Runs of evals from rows to output items, with a scripted sampler behind a real broker."""

import asyncio
import json
import re
import time
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from api.background import postponed
from api.context import Context
from api.eval_worker.worker import EvalWorker
from api.infra.preview_process import PreviewFailed
from api.infra.sample_queue import SampleJob
from api.records import eval_items, evals
from api.records.eval_items import QUEUE, EvalItem, Graded, finish
from api.records.eval_runs import EvalRun
from api.spec.evals.status import ItemStatus
from tests.api.conftest import client_of
from tests.api.sampler import Script, ends, reasons, sampler, says, text
from tests.factories import a_base_model
from tests.outside_judge import Said, fails_at, in_turn, outside_judge

SETTINGS = "embedded"

ITEM_SCHEMA = {"type": "object", "properties": {"question": {"type": "string"}}, "required": ["question", "answer"]}
SOURCE = {"type": "custom", "item_schema": ITEM_SCHEMA, "include_sample_schema": True}
EQUAL = {
    "type": "string_check",
    "name": "equal",
    "operation": "eq",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
}
SIMILAR = {
    "type": "text_similarity",
    "name": "similar",
    "evaluation_metric": "fuzzy_match",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "pass_threshold": 0.5,
}
SCRIPT = {
    "type": "python",
    "name": "script",
    "source": "def grade(sample, item):\n    return len(sample['output_text']) / 4",
    "pass_threshold": 0.75,
}
ASK = {"type": "template", "template": [{"role": "user", "content": "{{ item.question }}?"}]}


def an_eval(client: TestClient, *criteria: dict[str, Any], **fields: Any) -> str:
    body = {"data_source_config": SOURCE, "testing_criteria": list(criteria or (EQUAL,))} | fields
    answer = client.post("/v1/evals", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def row(answer: str, sampled: str | None = None, **item: Any) -> dict[str, Any]:
    given = {"item": {"question": "q", "answer": answer} | item}
    return given if sampled is None else given | {"sample": {"output_text": sampled}}


def a_run(client: TestClient, eval_id: str, *rows: dict[str, Any], sampled: bool = False, **fields: Any) -> str:
    source: dict[str, Any] = {"type": "jsonl", "source": {"type": "file_content", "content": list(rows)}}
    if sampled:
        source |= {"type": "completions", "model": "tiny", "input_messages": ASK}
    answer = client.post(f"/v1/evals/{eval_id}/runs", json={"data_source": source} | fields)
    assert answer.status_code == 200, answer.text
    return f"/v1/evals/{eval_id}/runs/{answer.json()['id']}"


@pytest.fixture(autouse=True)
def model(served: Context) -> None:
    a_base_model(served.database)


def work(served: Context, script: Script | None = None) -> int:
    """Work until nothing is due. Return how often the sampler was asked."""

    async def main() -> None:
        await EvalWorker(served).run_until_idle()

    if script is None:
        asyncio.run(main())
        return 0
    with sampler(served.settings, script) as asked:
        asyncio.run(main())
    assert all(job.background for job in asked)
    return len(asked)


def items_of(client: TestClient, run: str, query: str = "") -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = client.get(f"{run}/output_items{query}").json()["data"]
    return data


def test_rows_with_answers_are_graded_by_every_criterion(client: TestClient, served: Context) -> None:
    run = a_run(client, an_eval(client, EQUAL, SIMILAR, SCRIPT), row("abcd", "abcd"), row("abcd", "abc"), row("x", "y"))
    assert client.get(run).json()["status"] == "queued"
    work(served)
    ended = client.get(run).json()
    assert (ended["status"], ended["error"]) == ("completed", {"code": "", "message": ""})
    assert ended["result_counts"] == {"total": 3, "passed": 1, "failed": 2, "errored": 0}
    assert [(each["testing_criteria"], each["passed"]) for each in ended["per_testing_criteria_results"]] == [
        ("equal", 1),
        ("similar", 2),
        ("script", 2),
    ]
    first, second, third = items_of(client, run)
    assert [each["status"] for each in (first, second, third)] == ["pass", "fail", "fail"]
    assert [result["score"] for result in second["results"]] == [0, pytest.approx(6 / 7), 0.75]
    assert (third["datasource_item_id"], third["datasource_item"]["answer"]) == (2, "x")
    assert client.get(f"{run}/output_items/{second['id']}").json() == second
    assert [each["id"] for each in items_of(client, run, "?status=fail&order=desc")] == [third["id"], second["id"]]
    rest = items_of(client, run, f"?limit=1&after={first['id']}")
    assert rest == [second]


def test_a_message_without_content_is_shown_as_an_empty_text(client: TestClient, served: Context) -> None:
    called = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    calling = {"role": "assistant", "content": None, "tool_calls": [called]}
    messages = [{"role": "user", "content": "q"}, calling, {"role": "tool", "tool_call_id": "call_1", "content": "4"}]
    source = {
        "type": "completions",
        "model": "tiny",
        "source": {"type": "file_content", "content": [row("x", messages=messages)]},
        "input_messages": {"type": "item_reference", "item_reference": "item.messages"},
    }
    run = a_run(client, an_eval(client), data_source=source)
    work(served, says("x"))
    (item,) = items_of(client, run)
    assert [each["content"] for each in item["sample"]["input"]] == ["q", "", "4"]


def test_a_script_gets_no_answer_where_the_rows_have_none(client: TestClient, served: Context) -> None:
    of_item = SCRIPT | {"name": "of the item", "source": "def grade(sample, item):\n    return float(sample == {})"}
    source = SOURCE | {"include_sample_schema": False}
    run = a_run(client, an_eval(client, SCRIPT, of_item, data_source_config=source), row("x"))
    work(served)
    (item,) = items_of(client, run)
    assert item["sample"]["output"] == []
    needs_answer, needs_none = item["results"]
    assert (needs_answer["error"]["code"], needs_none["score"]) == ("python_grader_runtime_error", 1)
    assert "line 2" in needs_answer["error"]["message"]


def test_a_model_answers_before_it_is_graded(client: TestClient, served: Context) -> None:
    hook = {"name": "hook", "url": "https://example.com/x", "event_types": ["eval.run.succeeded"]}
    webhook = client.post("/v1/webhook_endpoints", json=hook).json()
    run = a_run(client, an_eval(client), row("xyz"), row("no"), sampled=True, metadata={"k": "v"}, name="first")
    assert work(served, says("x", "yz")) == 2
    ended = client.get(run).json()
    assert (ended["status"], ended["model"], ended["name"], ended["metadata"]) == (
        "completed",
        "tiny",
        "first",
        {"k": "v"},
    )
    (usage,) = ended["per_model_usage"]
    assert (usage["model_name"], usage["invocation_count"], usage["total_tokens"]) == ("tiny", 2, 16)
    passed, failed = items_of(client, run)
    assert (passed["status"], failed["status"]) == ("pass", "fail")
    sample = passed["sample"]
    assert sample["input"] == [{"role": "user", "content": "q?"}]
    assert sample["output"] == [{"role": "assistant", "content": "xyz"}]
    assert (sample["seed"], sample["temperature"], sample["usage"]["prompt_tokens"]) == (42, 1, 5)
    deliveries = client.get(f"/v1/webhook_endpoints/{webhook['id']}/deliveries").json()["data"]
    assert [(each["event_type"], each["data"]["id"]) for each in deliveries] == [("eval.run.succeeded", ended["id"])]


def test_criteria_read_an_answer_without_its_reasoning(client: TestClient, served: Context) -> None:
    as_json = EQUAL | {"name": "json", "input": "{{ sample.output_json }}"}
    eval_id = an_eval(client, EQUAL, as_json)
    source = {
        "type": "completions",
        "model": "tiny",
        "source": {"type": "file_content", "content": [row("7")]},
        "input_messages": ASK,
        "sampling_params": {"reasoning_effort": "none"},
    }
    run = client.post(f"/v1/evals/{eval_id}/runs", json={"data_source": source}).json()
    asked: list[Any] = []

    def script(job: SampleJob) -> list[dict[str, Any]]:
        asked.append(job.content["ask"])
        return reasons("Six and one.", "7")(job)

    work(served, script)
    (item,) = items_of(client, f"/v1/evals/{eval_id}/runs/{run['id']}")
    assert (item["status"], item["sample"]["output"][0]["content"]) == ("pass", "7")
    assert [request["thinking"] for request in asked] == [False]


def test_what_cannot_be_graded_is_an_error_of_its_item(client: TestClient, served: Context) -> None:
    broken = EQUAL | {"name": "json", "input": "{{ sample.output_json.a }}"}
    eval_id = an_eval(client, EQUAL, broken)
    graded = a_run(client, eval_id, row("a", "a"), row("a", '{"a": "a"}'))
    asked = a_run(client, eval_id, row("a", question="x" * 70_000 * 2), sampled=True)
    work(served, ends(type="refused", message="too long", param="messages", code="context_length_exceeded"))
    first, second = items_of(client, graded)
    assert (first["status"], second["status"]) == ("error", "fail")
    assert first["results"][1]["error"]["code"] == "sample_parse_error"
    assert client.get(graded).json()["per_testing_criteria_results"][1]["errored"] == 1
    (refused,) = items_of(client, asked)
    assert (refused["status"], refused["results"]) == ("error", [])
    assert refused["sample"]["error"]["code"] == "truncated_observation_error"
    assert client.get(asked).json()["result_counts"]["errored"] == 1


def test_rows_of_a_file_are_read_by_its_messages(client: TestClient, served: Context) -> None:
    rows = [row("a", messages=[{"role": "user", "content": str(number)}]) for number in range(3)]
    content = "\n\n".join(json.dumps(each) for each in rows).encode()
    file = client.post("/v1/files", data={"purpose": "evals"}, files={"file": ("in.jsonl", content)}).json()
    source = {
        "type": "completions",
        "model": "tiny",
        "source": {"type": "file_id", "id": file["id"]},
        "input_messages": {"type": "item_reference", "item_reference": "item.messages"},
        "sampling_params": {"temperature": 0, "max_completion_tokens": 7},
    }
    eval_id = an_eval(client)
    created = client.post(f"/v1/evals/{eval_id}/runs", json={"data_source": source}).json()
    assert created["data_source"] == source
    assert client.delete(f"/v1/files/{file['id']}").json()["error"]["code"] == "file_in_use"
    assert work(served, lambda job: says(job.content["ask"]["messages"][0]["content"])(job)) == 3
    items = items_of(client, f"/v1/evals/{eval_id}/runs/{created['id']}")
    assert [item["sample"]["output"][0]["content"] for item in items] == ["0", "1", "2"]
    assert items[0]["sample"]["max_completion_tokens"] == 7
    assert client.delete(f"/v1/files/{file['id']}").status_code == 200


@pytest.mark.parametrize(
    ("rows", "limits", "code", "message"),
    [
        ([{"item": {"question": 1, "answer": "a"}, "sample": {"output_text": ""}}], {}, "invalid_rows", "row 1: "),
        ([row("a")], {}, "invalid_rows", "row 1: sample.output_text: Field required, .* Give a model"),
        ([row("a", "a")] * 2, {"max_eval_items": 1}, "too_many_rows", ".*a run may have 1"),
        ([row("a", "a")] * 2, {"max_project_eval_items": 1}, "item_limit_exceeded", ""),
    ],
)
def test_rows_that_do_not_fit_fail_the_run(
    client: TestClient, served: Context, rows: list[dict[str, Any]], limits: dict[str, int], code: str, message: str
) -> None:
    run = a_run(client, an_eval(client), *rows)
    object.__setattr__(served, "settings", served.settings.model_copy(update=limits))
    work(served)
    ended = client.get(run).json()
    assert (ended["status"], ended["error"]["code"]) == ("failed", code)
    assert ended["result_counts"]["total"] == 0
    assert re.match(message, ended["error"]["message"])


def test_items_of_a_run_that_begins_meanwhile_count(
    client: TestClient, served: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    eval_id, add = an_eval(client), eval_items.add
    other, run = (a_run(client, eval_id, row("a", "a")) for _ in range(2))
    client.post(f"{other}/cancel")

    def add_beside_another(session: Any, run_id: str, rows: Any) -> None:
        add(session, run_id, rows)
        session.execute(update(EvalRun).where(EvalRun.id == other.rpartition("/")[2]).values(total=1))

    monkeypatch.setattr(eval_items, "add", add_beside_another)
    object.__setattr__(served, "settings", served.settings.model_copy(update={"max_project_eval_items": 1}))
    work(served)
    assert client.get(run).json()["error"]["code"] == "item_limit_exceeded"


def prepare(served: Context) -> None:
    async def main() -> None:
        assert await EvalWorker(served).work_once()

    asyncio.run(main())


def test_a_run_is_not_taken_over_while_its_rows_are_checked(
    client: TestClient, served: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, check, left_s = a_run(client, an_eval(client), row("x", "x")), served.previews.run, list[float]()

    def observed(*args: Any) -> str:
        report = check(*args)
        with served.database.read() as session:
            due_at = session.get_one(EvalRun, run.rpartition("/")[2]).due_at
        assert due_at is not None
        left_s.append(due_at - time.time())
        return report

    monkeypatch.setattr(served.previews, "run", observed)
    prepare(served)
    (lease_s,) = left_s
    assert lease_s > served.settings.lease_s, "it holds for the longest check, and then for a lease"


def test_what_a_dead_worker_held_is_graded_once(client: TestClient, served: Context) -> None:
    """It stored one result, held two more items, and left the rest."""
    run = a_run(client, an_eval(client), *(row("x") for _ in range(6)), sampled=True)
    prepare(served)
    kept = Graded(ItemStatus.FAILED, {"equal": "failed"}, {"results": [], "sample": {}})
    with served.database.write() as session:
        first = QUEUE.claim_item(session, "dead", 60)
        assert first is not None
        assert finish(session, first, kept)
        for _ in range(2):
            lost = QUEUE.claim_item(session, "dead", -1)
    assert lost is not None
    assert work(served, says("x")) == 5
    with served.database.write() as session:
        assert not finish(session, lost, kept), "its fence is old"
        assert session.get_one(EvalItem, lost.key[:2]).status == "pass"
    assert client.get(run).json()["result_counts"] == {"total": 6, "passed": 5, "failed": 1, "errored": 0}


def test_the_runs_of_two_projects_progress_in_turn(app: FastAPI, client: TestClient, served: Context) -> None:
    other = client_of(app, "other")
    a_run(client, an_eval(client), *(row("x") for _ in range(4)), sampled=True)
    prepare(served)
    a_run(other, an_eval(other), *(row("x") for _ in range(2)), sampled=True)
    prepare(served)
    order = []
    with served.database.write() as session:
        while (claim := QUEUE.claim_item(session, "one", 60)) is not None:
            order.append(claim.work.project_id)
            finish(session, claim, Graded(ItemStatus.PASSED, {"equal": "passed"}, {}))
    assert order[:4] == [order[0], order[1]] * 2
    assert len(set(order)) == 2
    assert len(order) == 6


def test_a_canceled_run_keeps_its_results_and_a_deleted_one_leaves_nothing(client: TestClient, served: Context) -> None:
    eval_id = an_eval(client)
    run = a_run(client, eval_id, row("x"), row("x"), sampled=True)
    prepare(served)
    with served.database.write() as session:
        claim = QUEUE.claim_item(session, "one", 60)
        assert claim is not None
    assert client.post(f"{run}/cancel").json()["status"] == "canceled"
    assert client.post(run).json()["status"] == "canceled", "as older clients cancel"
    with served.database.write() as session:
        assert not finish(session, claim, Graded(ItemStatus.PASSED, {"equal": "passed"}, {}))
        assert not QUEUE.renew_items(session, {claim.key}, 60)
    assert work(served, says("x")) == 0
    other = a_run(client, eval_id, row("x", "x"))
    work(served)
    assert client.post(f"{other}/cancel").json()["error"]["code"] == "invalid_run_state"
    assert client.delete(other).json() == {"object": "eval.run.deleted", "deleted": True, "run_id": other[-32:]}
    assert client.get(other).status_code == 404
    assert client.delete(f"/v1/evals/{eval_id}").json()["deleted"]
    assert client.get(f"/v1/evals/{eval_id}").status_code == client.get(run).status_code == 404
    work(served)
    with served.database.read() as session:
        assert session.get(EvalRun, run.rpartition("/")[2]) is None
        assert session.get(EvalItem, claim.key[:2]) is None
        assert session.get(evals.Eval, eval_id) is None


def test_a_sampler_that_dies_of_an_item_ends_it_at_the_third_time(
    client: TestClient, served: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postponed, "FAULT_WAIT_S", 0.0)
    run = a_run(client, an_eval(client), row("x"), sampled=True)
    assert work(served, ends(type="lost")) == 3
    (item,) = items_of(client, run)
    assert item["sample"]["error"]["code"] == "sampler_lost"


def test_a_script_that_never_ends_is_an_error(client: TestClient, served: Context) -> None:
    endless = SCRIPT | {"source": "def grade(sample, item):\n    while True:\n        pass"}
    run = a_run(client, an_eval(client, endless), row("x", "x"))
    work(served)
    (item,) = items_of(client, run)
    assert item["status"] == "error"
    assert "took longer than" in item["results"][0]["error"]["message"]


def dying(monkeypatch: pytest.MonkeyPatch, served: Context, task: str, times: int) -> None:
    """The child process of the task dies so many times."""
    run_child, deaths = served.previews.run, [PreviewFailed()] * times

    def run(module: str, name: str, request: Any, *rest: Any) -> str:
        if request["task"] == task and deaths:
            raise deaths.pop()
        return run_child(module, name, request, *rest)

    monkeypatch.setattr(served.previews, "run", run)


@pytest.mark.parametrize(("deaths", "status"), [(2, "pass"), (3, "error")])
def test_a_process_that_dies_while_it_grades_is_started_again(
    client: TestClient, served: Context, monkeypatch: pytest.MonkeyPatch, deaths: int, status: str
) -> None:
    monkeypatch.setattr(postponed, "FAULT_WAIT_S", 0.0)
    dying(monkeypatch, served, "grade", deaths)
    run = a_run(client, an_eval(client, SIMILAR), row("x"), sampled=True)
    assert work(served, says("x")) == 1, "the answer of the first attempt is graded"
    (item,) = items_of(client, run)
    assert item["status"] == status
    assert (item["results"][0]["error"] or {}).get("code") == (None if status == "pass" else "grader_failed")


@pytest.mark.parametrize(("deaths", "status"), [(2, "completed"), (3, "failed")])
def test_a_process_that_dies_while_it_checks_the_rows_is_started_again(
    client: TestClient, served: Context, monkeypatch: pytest.MonkeyPatch, deaths: int, status: str
) -> None:
    dying(monkeypatch, served, "check_rows", deaths)
    run = a_run(client, an_eval(client), row("x", "x"))
    for _ in range(3):
        work(served)
        with served.database.write() as session:  # the lease expires
            session.execute(update(EvalRun).where(EvalRun.status == "queued").values(due_at=0))
    assert client.get(run).json()["status"] == status


SCORED = {
    "type": "score_model",
    "name": "scored",
    "model": "strict",
    "input": [{"role": "user", "content": "Rate {{ sample.output_text }}"}],
    "range": [0, 10],
    "pass_threshold": 7,
}
LABELED = {
    "type": "label_model",
    "name": "labeled",
    "model": "strict",
    "input": [{"role": "user", "content": "Is {{ sample.output_text }} good?"}],
    "labels": ["good", "bad"],
    "passing_labels": ["good"],
}


def judge(number: int, body: dict[str, Any]) -> Said:
    """Answers nonsense about the text `odd`, and is away at first."""
    question = body["messages"][-1]["content"]
    if number == 0:
        return Said(status=503)
    if "odd" in question:
        return Said(text="I would rather not say")
    return Said("good" if "good" in question else 8.0)


def test_judges_score_and_label_answers_and_are_asked_again(client: TestClient, served: Context) -> None:
    with outside_judge(judge) as server:
        settings = {"judge_tries": 2, "judge_retry_s": 0.01, "judge_timeout_s": 5, **server.settings}
        context = Context.open(served.settings.model_copy(update=settings))
        object.__setattr__(served, "settings", context.settings)
        run = a_run(client, an_eval(client, EQUAL, SCORED, LABELED), row("a", "a"), row("odd", "odd"), row("a", "a"))
        work(context)
        context.database.dispose()
    passed, odd, again = items_of(client, run)
    assert [item["status"] for item in (passed, odd, again)] == ["pass", "error", "pass"]
    assert [result["score"] for result in passed["results"]] == [1, 8, 1]
    shown = passed["results"][2]["sample"]
    assert (shown["label"], shown["model"]) == ("good", "strict-2026")
    assert odd["results"][1]["error"]["code"] == "model_grader_parse_error"
    (usage,) = client.get(run).json()["per_model_usage"]
    assert usage["invocation_count"] >= 2
    assert usage["total_tokens"] == 25 * usage["invocation_count"]


def judged_by(served: Context, settings: dict[str, Any], **given: Any) -> Context:
    context = Context.open(served.settings.model_copy(update=settings | {"judge_tries": 1, **given}))
    object.__setattr__(served, "settings", context.settings)
    return context


def make_due(served: Context) -> None:
    with served.database.write() as session:
        session.execute(update(EvalItem).where(EvalItem.status.is_(None)).values(due_at=0))


def test_a_run_waits_for_a_judge_that_is_away_and_says_so(client: TestClient, served: Context) -> None:
    answers = [Said(status=500), Said(8.0)]
    with outside_judge(lambda number, body: answers[0]) as server:
        context = judged_by(served, server.settings, eval_items=1)
        run = a_run(client, an_eval(client, SCORED), row("a"), row("b"), sampled=True)
        assert work(context, says("x")) == 1
        waiting = client.get(run).json()
        assert len(server.asked) == 1, "all items wait, not only the first"
        del answers[0]
        make_due(context)
        assert work(context, says("x")) == 1, "the first item has its answer"
        context.database.dispose()
    assert waiting["status"] == "in_progress"
    assert waiting["error"] == {
        "code": "judge_unavailable",
        "message": "The run waits for a judge: strict answered with status 500",
    }
    ended = client.get(run).json()
    assert (ended["status"], ended["error"], ended["result_counts"]["passed"]) == (
        "completed",
        {"code": "", "message": ""},
        2,
    )
    assert {usage["model_name"]: usage["invocation_count"] for usage in ended["per_model_usage"]}["tiny"] == 2


def test_a_judge_that_stays_away_for_too_long_is_the_error_of_its_items(
    client: TestClient, served: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postponed, "JUDGE_WAIT_S", 0.0)
    with outside_judge(lambda number, body: Said(status=500)) as server:
        context = judged_by(served, server.settings, judge_wait_s=0.001)
        run = a_run(client, an_eval(client, SCORED), row("a", "a"), row("b", "b"))
        work(context)
        context.database.dispose()
    assert {item["results"][0]["error"]["code"] for item in items_of(client, run)} == {"judge_unavailable"}
    assert client.get(run).json()["status"] == "completed"


def test_a_worker_with_a_fast_clock_waits_for_a_judge_as_long_as_others(
    client: TestClient, served: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = time.time() + 24 * 3600
    monkeypatch.setattr("time.time", lambda: fast)
    with outside_judge(lambda number, body: Said(status=500)) as server:
        context = judged_by(served, server.settings)
        run = a_run(client, an_eval(client, SCORED), row("a", "a"))
        for _ in range(2):
            work(context)
            pass_time(context)
        context.database.dispose()
    assert len(server.asked) > 1
    assert client.get(run).json()["status"] == "in_progress"


def pass_time(served: Context, seconds: float = 100) -> None:
    with served.database.write() as session:
        due = update(EvalItem).where(EvalItem.due_at.is_not(None))
        session.execute(due.values(due_at=EvalItem.due_at - seconds))


@pytest.mark.parametrize("trouble", [Said(status=500, after_s=0.3), Said(after_s=0.8)])
def test_an_item_that_its_judge_cannot_answer_does_not_hold_up_the_run(
    client: TestClient, served: Context, trouble: Said
) -> None:
    with outside_judge(fails_at("Rate bad", trouble)) as server:
        context = judged_by(served, server.settings, judge_timeout_s=0.5)
        run = a_run(client, an_eval(client, SCORED | {"pass_threshold": 1}), row("", "a"), row("", "bad"), row("", "b"))
        work(context)
        graded = client.get(run).json()
        for _ in range(2):
            pass_time(context)
            work(context)
        context.database.dispose()
    assert (graded["status"], graded["result_counts"]["passed"]) == ("in_progress", 2)
    assert graded["error"] == {"code": "", "message": ""}, "the run does not wait"
    assert client.get(run).json()["status"] == "completed"
    assert [item["status"] for item in items_of(client, run)] == ["pass", "error", "pass"]
    assert items_of(client, run)[1]["results"][0]["error"]["code"] == "model_grader_server_error"
    assert len(server.asked) == 2 + 3


def test_a_run_that_waits_asks_other_items_before_the_one_that_was_not_answered(
    client: TestClient, served: Context
) -> None:
    with outside_judge(fails_at("Rate bad", Said(status=500))) as server:
        context = judged_by(served, server.settings, eval_items=1)
        criterion = SCORED | {"pass_threshold": 1}
        run = a_run(client, an_eval(client, criterion), row("", "bad"), row("", "a"), row("", "b"))
        work(context)
        waiting = client.get(run).json()
        for _ in range(3):
            pass_time(context)
            work(context)
        context.database.dispose()
    assert waiting["error"]["code"] == "judge_unavailable"
    asked = [body["messages"][0]["content"].split()[1] for body in server.asked]
    assert asked == ["bad", "a", "b", "bad", "bad", "bad"]
    assert [item["status"] for item in items_of(client, run)] == ["error", "pass", "pass"]


def test_a_judge_that_dies_of_an_item_is_asked_three_times(
    client: TestClient, served: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postponed, "JUDGE_WAIT_S", 0.0)
    run = a_run(client, an_eval(client, SCORED | {"model": "tiny"}), row("", "a"))
    assert work(served, ends(type="lost")) == 3
    (item,) = items_of(client, run)
    assert "The sampler stopped before" in item["results"][0]["error"]["message"]


def test_a_run_waits_no_longer_if_the_judge_answers_but_another_criterion_errs(
    client: TestClient, served: Context
) -> None:
    errs = EQUAL | {"input": "{{ sample.output_tools[0].function.name }}"}
    answers = [Said(status=503), Said(8.0), Said(status=503), Said(8.0)]
    waits_since = []
    with outside_judge(in_turn(*answers)) as server:
        context = judged_by(served, server.settings, eval_items=1)
        run = a_run(client, an_eval(client, SCORED, errs), row("", "a"), row("", "b"))
        for _ in range(2):
            pass_time(context)
            work(context)
            with context.database.read() as session:
                waits_since.append(session.scalars(select(EvalRun)).one().waits_since or 0.0)
        pass_time(context)
        work(context)
        context.database.dispose()
    assert 0 < waits_since[0] < waits_since[1]
    assert client.get(run).json()["result_counts"]["errored"] == 2


def test_calls_of_functions_are_graded(client: TestClient, served: Context) -> None:
    called = {"type": "function", "id": "a", "function": {"name": "find", "arguments": "{}"}}
    name = EQUAL | {"input": "{{ sample.output_tools[0].function.name }}"}
    script = SCRIPT | {"source": "def grade(sample, item):\n    return len(sample['output_tools'])"}
    message = {"role": "assistant", "content": None, "tool_calls": [called]}
    rows = (row("find") | {"sample": {"choices": [{"message": message}]}}, row("find", "find"))
    run = a_run(client, an_eval(client, name, script), *rows)
    work(served)
    first, second = items_of(client, run)
    assert [result["passed"] for result in first["results"]] == [True, True]
    assert first["sample"]["output"] == [{"role": "assistant", "content": "", "tool_calls": [called]}]
    assert second["results"][0]["error"]["code"] == "invalid_variable_error"
    assert "tool_calls" not in second["sample"]["output"][0]


def test_only_the_text_of_an_answer_is_looked_at(client: TestClient, served: Context) -> None:
    """Rows may hold whole chat completions."""
    whole = {"choices": [{"message": {"role": "assistant", "content": "x"}}]}
    run = a_run(client, an_eval(client), row("x") | {"sample": whole})
    work(served)
    assert items_of(client, run)[0]["status"] == "pass"
    assert text("x")["text"] == "x"
