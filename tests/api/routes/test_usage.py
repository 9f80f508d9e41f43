"""What a project used: by day, key and model, for itself only; and the budgets that refuse more."""

import csv
import io
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from api.cli.main import app as attune
from api.context import Context
from api.records import usage
from api.records.projects import Project
from api.records.usage import DAY_S, Account, Usage
from api.services import budgets
from api.services import usage as usage_service
from tests.api.conftest import client_of
from tests.api.http.test_errors import error_of
from tests.api.routes.test_files import upload
from tests.factories import a_base_model, a_file, a_model, a_project
from worker.supervisor.lost_jobs import record_stored_bytes

DAY = 20_000 * DAY_S


def enter(served: Context, project: str, *, day: int = DAY, key: str = "key_a", model: str = "tiny", **amounts: Any):
    project_id = a_project(served.database, project)
    with served.database.write() as session:
        session.add(Usage(project_id=project_id, day=day, key_id=key, model=model, **amounts))


@pytest.fixture
def entered(served: Context) -> None:
    enter(served, "default", trained_tokens=10, cpu_seconds=1.5)
    enter(served, "default", key="key_b", trained_tokens=5, gpu_seconds=2.0)
    enter(served, "default", day=DAY + DAY_S, model="big", prompt_tokens=7, completion_tokens=3)
    enter(served, "default", model="", stored_bytes=100)
    enter(served, "default", day=DAY + DAY_S, model="", stored_bytes=80)
    enter(served, "other", trained_tokens=1000)


def lines(client: TestClient, *group_by: str, **query: object) -> list[dict[str, Any]]:
    whole: dict[str, Any] = {"start_time": DAY, "end_time": DAY + 2 * DAY_S, "group_by": list(group_by)} | query
    answer = client.get("/v1/usage", params=whole)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"])


def test_days_add_up_the_projects_own_usage(client: TestClient, entered: None) -> None:
    first, second = lines(client)
    assert (first["start_time"], first["end_time"]) == (DAY, DAY + DAY_S)
    assert (first["trained_tokens"], first["cpu_seconds"], first["gpu_seconds"]) == (15, 1.5, 2.0)
    assert (second["prompt_tokens"], second["completion_tokens"]) == (7, 3)
    assert (first["stored_bytes"], second["stored_bytes"]) == (100, 80)
    assert (first["key_id"], first["model"]) == (None, None)


def test_keys_and_models_are_summed_over_all_days(client: TestClient, entered: None) -> None:
    by_key = {line["key_id"]: line for line in lines(client, "key")}
    assert {key: line["trained_tokens"] for key, line in by_key.items()} == {"key_a": 10, "key_b": 5}
    assert by_key["key_a"]["stored_bytes"] == 100  # the most of a day, not a sum of days
    assert by_key["key_a"]["end_time"] == DAY + 2 * DAY_S
    by_model = {line["model"]: line["trained_tokens"] for line in lines(client, "model")}
    assert by_model == {"tiny": 15, "big": 0, None: 0}
    assert len(lines(client, "day", "key", "model")) == 5


@pytest.mark.parametrize("asked", [{"params": {"format": "csv"}}, {"headers": {"accept": "text/csv"}}])
def test_a_table_has_the_same_lines(client: TestClient, entered: None, asked: dict[str, Any]) -> None:
    period = {"start_time": DAY, "end_time": DAY + 1}
    answer = client.get("/v1/usage", params=period | asked.get("params", {}), headers=asked.get("headers"))
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert (row["start_time"], row["end_time"], row["trained_tokens"]) == ("2024-10-04", "2024-10-05", "15")


def test_a_name_is_no_formula_of_a_table(app: FastAPI, served: Context) -> None:
    named = client_of(app, "=1+1", "operator")
    name = "=HYPERLINK(A1)"
    key = named.post("/v1/keys", json={"name": name}).json()["id"]
    enter(served, "=1+1", key=key, trained_tokens=1)
    query: dict[str, Any] = {"start_time": DAY, "end_time": DAY + 1, "format": "csv", "group_by": ["project", "key"]}
    (row,) = csv.DictReader(io.StringIO(named.get("/v1/usage", params=query).text))
    assert (row["project_name"], row["key_name"], row["trained_tokens"]) == ("'=1+1", f"'{name}", "1")


def test_only_the_lines_of_the_answer_are_limited(
    client: TestClient, entered: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_service, "MAX_LINES", 3)
    assert len(lines(client, "model")) == 3, "of four days and models"
    answer = client.get(
        "/v1/usage", params={"start_time": DAY, "end_time": DAY + 2 * DAY_S, "group_by": ["day", "model"]}
    )
    assert "more than 3 lines" in error_of(answer)["message"]


def test_this_month_is_the_default(client: TestClient, served: Context) -> None:
    account = Account(a_project(served.database), "key_a", "tiny")
    with served.database.write() as session:
        usage.add(session, account, trained_tokens=4)
    answer = client.get("/v1/usage").json()
    assert [line["trained_tokens"] for line in answer["data"]] == [4]
    assert [budget["used"] for budget in answer["budgets"]] == [4, 0, 0]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("start_time=200000&end_time=10", "end_time"),
        ("start_time=0&end_time=90000000", "start_time"),
        ("group_by=nothing", "group_by"),
        ("format=xml", "format"),
    ],
)
def test_wrong_questions_are_refused_by_name(client: TestClient, query: str, param: str) -> None:
    answer = client.get(f"/v1/usage?{query}")
    assert answer.status_code == 400
    assert (error_of(answer)["param"] or "").startswith(param)


def test_stored_bytes_are_measured_by_key(client: TestClient, served: Context) -> None:
    project = a_project(served.database)
    file = upload(client, b"{}\n" * 10).json()
    a_model(served, project, {"a.safetensors": b"12345"})  # with a checkpoint of the same size
    record_stored_bytes(served)
    stored = {line["key_id"]: line["stored_bytes"] for line in client.get("/v1/usage?group_by=key").json()["data"]}
    assert stored.pop(None) == 10  # an older release's job
    assert list(stored.values()) == [file["bytes"]]


def limit(served: Context, **limits: int | None) -> None:
    budgets.set_budget(served, "default", **limits)


@pytest.mark.parametrize("kind", ["jobs", "pipelines"])
@pytest.mark.parametrize("budget", ["trained_tokens", "device_seconds"])
def test_a_used_up_budget_refuses_jobs_and_says_when_it_resets(
    client: TestClient, served: Context, kind: str, budget: str
) -> None:
    a_base_model(served.database)
    project = a_project(served.database)
    job = {"model": "tiny", "training_file": a_file(served, project)}
    body = (
        job if kind == "jobs" else {"model": "tiny", "stages": [{"name": "a", "training_file": job["training_file"]}]}
    )
    with served.database.write() as session:
        usage.add(session, Account(project, "key_a", "tiny"), trained_tokens=1000, gpu_seconds=1000)
    limit(served, **{budget: 1001})
    assert client.post(f"/v1/fine_tuning/{kind}", json=body).status_code == 200
    limit(served, **{budget: 1000})
    answer = client.post(f"/v1/fine_tuning/{kind}", json=body)
    assert (answer.status_code, answer.headers["x-should-retry"]) == (429, "false")
    error = error_of(answer)
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
    assert f"has used 1,000 {budget.replace('_', ' ')} this month and may use 1,000" in error["message"]
    assert "-01 00:00 UTC" in error["message"]
    limit(served, **{budget: None})
    assert client.post(f"/v1/fine_tuning/{kind}", json=body).status_code == 200


def test_a_budget_of_bytes_refuses_files_until_others_are_deleted(client: TestClient, served: Context) -> None:
    a_project(served.database)
    limit(served, stored_bytes=100)
    first = upload(client, b"x" * 90).json()["id"]
    answer = upload(client, b"x" * 20)
    assert (answer.status_code, error_of(answer)["code"]) == (429, "insufficient_quota")
    client.delete(f"/v1/files/{first}")
    assert upload(client, b"x" * 20).status_code == 200


def test_the_operator_sets_and_removes_budgets(served: Context) -> None:
    a_project(served.database, "research")
    where = ("--data-dir", str(served.settings.data_dir))
    environment = {"ATTUNE_DATABASE_URL": served.settings.database_url}

    def run(*words: str) -> Any:
        return CliRunner().invoke(attune, ["projects", *words, *where], env=environment)

    assert run("budget", "research", "--trained-tokens", "500", "--stored-bytes", "9").exit_code == 0
    assert run("budget", "research", "--stored-bytes", "none").exit_code == 0
    with served.database.read() as session:
        project = session.get_one(Project, a_project(served.database, "research"))
    assert (project.monthly_trained_tokens, project.monthly_device_seconds, project.max_stored_bytes) == (
        500,
        None,
        None,
    )
    assert "500" in run("list").stdout
    assert "no project 'none'" in run("budget", "none").stderr
    assert run("budget", "research", "--stored-bytes", "-1").exit_code == 2


def test_an_operator_sees_the_usage_of_all_projects(app: FastAPI, entered: None) -> None:
    operator = client_of(app, "default", "operator")
    by_project = {line["project_name"]: line for line in lines(operator, "project")}
    assert {name: line["trained_tokens"] for name, line in by_project.items()} == {"default": 15, "other": 1000}
    assert by_project["default"]["stored_bytes"] == 100
    assert len(lines(operator, "project", "day", "key")) == 4
    assert [line["trained_tokens"] for line in lines(operator, "day")] == [15, 0], "without `project`: the key's own"


@pytest.mark.parametrize("scope", ["read", "write", "admin"])
def test_nobody_else_sees_other_projects(app: FastAPI, entered: None, scope: str) -> None:
    answer = client_of(app, "default", scope).get("/v1/usage", params={"group_by": ["day", "project"]})
    assert (answer.status_code, error_of(answer)["param"]) == (403, "group_by")
    assert "scope 'operator'" in error_of(answer)["message"]
