"""Evals: what may be asked for, and who sees it."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.context import Context
from api.records.eval_runs import EvalRun
from api.services import eval_runs
from tests.api.eval_worker.test_worker import ASK, EQUAL, SCORED, SCRIPT, SIMILAR, SOURCE, a_run, an_eval, row, work
from tests.factories import a_base_model, a_file, a_model, a_project

SETTINGS = "embedded"


def test_an_eval_is_kept_changed_and_listed(client: TestClient) -> None:
    made = [an_eval(client, name=name, metadata={"n": name}) for name in ("a", "b", "c")]
    shown = client.get(f"/v1/evals/{made[0]}").json()
    schema = shown["data_source_config"]["schema"]
    assert schema["properties"]["item"] == SOURCE["item_schema"]
    assert schema["required"] == ["item", "sample"]
    assert shown["testing_criteria"] == [EQUAL]
    changed = client.post(f"/v1/evals/{made[0]}", json={"name": "z"}).json()
    assert (changed["name"], changed["metadata"]) == ("z", {"n": "a"})
    assert client.post(f"/v1/evals/{made[0]}", json={"metadata": None}).json()["metadata"] is None
    first = client.get("/v1/evals?limit=2").json()
    rest = client.get(f"/v1/evals?limit=2&after={first['last_id']}").json()
    assert [each["id"] for each in first["data"] + rest["data"]] == made
    latest = client.get("/v1/evals?order=desc&order_by=updated_at").json()["data"]
    assert [each["id"] for each in latest] == [made[0], made[2], made[1]]


def test_a_deleted_eval_is_a_cursor_in_every_order(client: TestClient) -> None:
    made = [an_eval(client, name=name) for name in ("a", "b", "c")]
    client.post(f"/v1/evals/{made[0]}", json={"name": "z"})
    client.delete(f"/v1/evals/{made[2]}")

    def after(query: str) -> list[str]:
        return [each["id"] for each in client.get(f"/v1/evals?after={made[2]}&{query}").json()["data"]]

    assert (after("order=asc"), after("order=desc")) == ([], [made[1], made[0]])
    assert (after("order_by=updated_at"), after("order_by=updated_at&order=desc")) == ([made[0]], [made[1]])


def custom(**fields: Any) -> dict[str, Any]:
    return {"data_source_config": SOURCE | fields, "testing_criteria": [EQUAL]}


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"data_source_config": {"type": "logs"}, "testing_criteria": [EQUAL]}, "data_source_config", "keeps no answers"),
    (custom(item_schema={"type": "no"}), "data_source_config.item_schema", "not a JSON Schema"),
    (custom(item_schema={"$ref": "http://127.0.0.1/x"}), "data_source_config.item_schema", "Retrieval is disabled"),
    (custom(include_sample_schema=False), "testing_criteria.0.input", "include_sample_schema"),
    (custom() | {"testing_criteria": []}, "testing_criteria", "at least 1"),
    (custom() | {"testing_criteria": [EQUAL, EQUAL]}, "testing_criteria.1.name", "unique"),
    (custom() | {"testing_criteria": [{"type": "multi"}]}, "testing_criteria.0", "criterion of its own"),
    (custom() | {"testing_criteria": [EQUAL | {"input": "{{ x }}"}]}, "testing_criteria.0.input", "not a variable"),
    (custom() | {"testing_criteria": [SIMILAR | {"pass_threshold": None}]}, "testing_criteria.0.pass_threshold", ""),
    (
        custom() | {"testing_criteria": [SCRIPT | {"source": "import os\n"}]},
        "testing_criteria.0.source",
        "grade(sample, item)",
    ),
    (
        custom() | {"testing_criteria": [SIMILAR | {"evaluation_metric": "cosine"}]},
        "testing_criteria.0.evaluation_metric",
        "ATTUNE_EMBEDDING_MODEL",
    ),
    (custom() | {"testing_criteria": [SCORED]}, "testing_criteria.0.model", "neither a model"),
    (custom() | {"nmae": "x"}, "nmae", "name"),
]


@pytest.mark.parametrize(("body", "param", "words"), REFUSED)
def test_an_eval_that_could_not_grade_is_refused(
    client: TestClient, body: dict[str, Any], param: str, words: str
) -> None:
    answer = client.post("/v1/evals", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert words in answer.json()["error"]["message"]


COMPLETIONS: dict[str, Any] = {
    "type": "completions",
    "model": "tiny",
    "input_messages": ASK,
    "source": {"type": "file_content", "content": [row("a")]},
}
SAMPLE_FIRST = {"type": "template", "template": [{"role": "user", "content": "{{ sample.output_text }}"}]}
REFUSED_RUNS: list[tuple[dict[str, Any], str, str]] = [
    ({"type": "responses"}, "data_source", "use 'completions'"),
    (COMPLETIONS | {"source": {"type": "stored_completions"}}, "data_source.source", "file_id"),
    (COMPLETIONS | {"model": "none"}, "model", "none"),
    (COMPLETIONS | {"input_messages": SAMPLE_FIRST}, "data_source.input_messages.template", "no answer"),
    (COMPLETIONS | {"sampling_params": {"temperature": 3}}, "data_source.sampling_params.temperature", "2"),
    (
        COMPLETIONS | {"sampling_params": {"response_format": {"type": "no"}}},
        "data_source.sampling_params.response_format",
        "json_object",
    ),
    (COMPLETIONS | {"sampling_params": {"tools": [{}]}}, "data_source.sampling_params.tools", "0.type: Field required"),
    (
        COMPLETIONS | {"sampling_params": {"max_completion_tokens": 10**9}},
        "data_source.sampling_params.max_completion_tokens",
        "this server allows",
    ),
    (COMPLETIONS | {"source": {"type": "file_id", "id": "file-x"}}, "data_source.source.id", "No such"),
]


@pytest.mark.parametrize(("source", "param", "words"), REFUSED_RUNS)
def test_a_run_that_could_not_be_graded_is_refused(
    client: TestClient, served: Context, source: dict[str, Any], param: str, words: str
) -> None:
    a_base_model(served.database)
    answer = client.post(f"/v1/evals/{an_eval(client)}/runs", json={"data_source": source})
    assert answer.status_code in (400, 404), answer.text
    assert answer.json()["error"]["param"] == param
    assert words.lower() in answer.json()["error"]["message"].lower()


TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("facts", "code"), [({"tools": False}, "tools_not_supported"), ({"chat_template": False}, "no_chat_template")]
)
@pytest.mark.parametrize("tuned", [False, True])
def test_a_run_that_the_chat_template_cannot_serve_is_refused(
    client: TestClient, served: Context, facts: dict[str, Any], code: str, tuned: bool
) -> None:
    model = a_base_model(served.database, **facts)
    if tuned:
        model = a_model(served, a_project(served.database))
    source = COMPLETIONS | {"model": model, "sampling_params": {"tools": [TOOL]}}
    refused = client.post(f"/v1/evals/{an_eval(client)}/runs", json={"data_source": source})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, code)


DEEP: Any = "a"
for _ in range(200):
    DEEP = [DEEP]


@pytest.mark.parametrize("value", ["\0", "\ud800", float("nan"), DEEP])
def test_what_the_database_cannot_keep_is_refused(client: TestClient, value: Any) -> None:
    body = json.dumps(
        {"data_source": COMPLETIONS | {"source": {"type": "file_content", "content": [{"item": {"a": value}}]}}}
    )
    answer = client.post(
        f"/v1/evals/{an_eval(client)}/runs", content=body, headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")


def test_an_eval_is_its_projects_own(client: TestClient, other_project: TestClient) -> None:
    eval_id = an_eval(client)
    run = a_run(client, eval_id, row("a", "a"))
    for path in (f"/v1/evals/{eval_id}", f"/v1/evals/{eval_id}/runs", run, f"{run}/output_items"):
        assert other_project.get(path).status_code == 404
    assert other_project.post(f"{run}/cancel").status_code == 404
    assert other_project.delete(run).status_code == other_project.delete(f"/v1/evals/{eval_id}").status_code == 404
    assert other_project.get("/v1/evals").json()["data"] == []
    body = {"data_source": {"type": "jsonl", "source": {"type": "file_content", "content": [row("a", "a")]}}}
    assert other_project.post(f"/v1/evals/{eval_id}/runs", json=body).status_code == 404


def test_runs_are_listed_by_status_and_limited(client: TestClient, served: Context) -> None:
    eval_id = an_eval(client)
    runs = [a_run(client, eval_id, row("a", "a"), name=name).rpartition("/")[2] for name in ("a", "b")]
    client.post(f"/v1/evals/{eval_id}/runs/{runs[0]}/cancel")
    listed = client.get(f"/v1/evals/{eval_id}/runs").json()["data"]
    assert [each["id"] for each in listed] == runs
    assert [each["id"] for each in client.get(f"/v1/evals/{eval_id}/runs?order=desc").json()["data"]] == runs[::-1]
    assert [each["id"] for each in client.get(f"/v1/evals/{eval_id}/runs?status=queued").json()["data"]] == [runs[1]]
    assert listed[0]["report_url"] == f"http://testserver/evals/{eval_id}?run={runs[0]}"
    object.__setattr__(served, "settings", served.settings.model_copy(update={"max_active_eval_runs": 1}))
    body = {"data_source": {"type": "jsonl", "source": {"type": "file_content", "content": [row("a", "a")]}}}
    refused = client.post(f"/v1/evals/{eval_id}/runs", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_active_runs")
    object.__setattr__(
        served, "settings", served.settings.model_copy(update={"max_active_eval_runs": 9, "max_eval_runs": 2})
    )
    refused = client.post(f"/v1/evals/{eval_id}/runs", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_eval_runs")


@pytest.mark.parametrize("removed", [False, True])
def test_a_run_that_is_deleted_at_the_same_time_does_not_exist(
    client: TestClient, served: Context, monkeypatch: pytest.MonkeyPatch, removed: bool
) -> None:
    """Another request deletes the run after this one has found it, and before it holds the run's lock."""
    run = a_run(client, an_eval(client), row("a", "a"))
    with served.database.read() as session:
        found = session.get_one(EvalRun, run.rpartition("/")[2])
    assert client.delete(run).status_code == 200
    if removed:
        work(served)
    monkeypatch.setattr(eval_runs, "_require", lambda *_: found)
    for answer in (client.post(f"{run}/cancel"), client.delete(run)):
        assert (answer.status_code, answer.json()["error"]["param"]) == (404, "run_id")


def test_a_clients_retry_gets_what_it_has_created(client: TestClient) -> None:
    retry = {"x-stainless-retry-count": "1"}
    first = client.post("/v1/evals", json=custom()).json()
    assert client.post("/v1/evals", json=custom(), headers=retry).json()["id"] == first["id"]
    body = {"data_source": {"type": "jsonl", "source": {"type": "file_content", "content": [row("a", "a")]}}}
    runs = f"/v1/evals/{first['id']}/runs"
    run = client.post(runs, json=body).json()
    assert client.post(runs, json=body, headers=retry).json()["id"] == run["id"]
    assert client.post(runs, json=body).json()["id"] != run["id"]


def test_a_job_may_ask_for_evals_of_its_project(client: TestClient, served: Context) -> None:
    a_base_model(served.database)
    project = a_project(served.database)
    rows = {"type": "file_id", "id": a_file(served, project, purpose="evals")}
    wanted = {"eval_id": an_eval(client), "source": rows, "input_messages": ASK}
    job: dict[str, Any] = {"model": "tiny", "training_file": a_file(served, project)}

    def answer(**fields: Any) -> Any:
        return client.post("/v1/fine_tuning/jobs", json=job | {"evals": [wanted | fields]})

    unknown = {"run_id": None, "model": None, "score": None, "best": False}
    assert answer().json()["evals"] == [{"eval_id": wanted["eval_id"], **unknown}]
    assert answer(eval_id="eval_none").json()["error"]["code"] == "eval_not_found"
    wrong = {"type": "file_id", "id": job["training_file"]}
    assert answer(source=wrong).json()["error"]["param"] == "evals.0.source.id"
    object.__setattr__(served, "settings", served.settings.model_copy(update={"max_eval_bytes": 1}))
    large = answer().json()["error"]
    assert (large["code"], large["param"]) == ("file_too_large", "evals.0.source.id")
    object.__setattr__(served, "settings", served.settings.model_copy(update={"max_eval_bytes": 1000}))
    loud = answer(sampling_params={"reasoning_effort": "high"}).json()["error"]
    assert loud["param"] == "evals.0.sampling_params.reasoning_effort"
    long = answer(sampling_params={"max_completion_tokens": 10**9}).json()["error"]
    assert long["param"] == "evals.0.sampling_params.max_completion_tokens"
    job["model"] = a_base_model(served.database, "mute", tools=False)
    assert answer(sampling_params={"tools": [TOOL]}).json()["error"]["param"] == "evals.0.sampling_params.tools"
    assert answer().status_code == 200
    job["method"] = {"type": "reward"}
    assert "gives no answers" in answer().json()["error"]["message"]
