"""`attune import push`, from a stand-in of OpenAI to a running API."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.cli.client import Client
from api.cli.errors import ExitCode
from api.cli.imports.bases import complete_judges, models_in, suggested_base, with_judges_here
from api.cli.imports.eval_plans import eval_body
from api.cli.imports.job_plans import job_body
from api.records.migrate import migrate
from api.services import keys
from api.settings import Settings
from tests.api.cli.conftest import attune
from tests.api.cli.stand_in import BASE, EVAL, KEY, MODELS, TRAINING, job, standing_in
from tests.api.cli.terminal import run_on_terminal
from tests.conftest import opened
from tests.factories import a_base_model
from tests.services.parts import AttuneApi

HERE = {
    "base_models": [
        {"id": name, "kind": kind, "facts": {"parameters": size}}
        for name, kind, size in (("small", "causal_lm", 1), ("big", "causal_lm", 9), ("encoder", "encoder", 99))
    ],
    "judges": ["gpt-4o"],
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, str]]:
    """The settings and the address of an API with the base model `tiny`."""
    folder = tmp_path_factory.mktemp("service")
    settings = Settings(data_dir=folder, requests_per_second=1000)
    with opened(settings) as context:
        migrate(context.database)
        a_base_model(context.database)
    server = AttuneApi(folder, settings)
    server.start()
    yield settings, server.base_url
    server.stop()


@pytest.fixture
def target(
    service: tuple[Settings, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Client]:
    """A client of a new project, which the environment names for commands, too."""
    settings, url = service
    with opened(settings) as context:
        _, key = keys.create(context, project=request.node.name, name="test", scope="write")
    monkeypatch.setenv("ATTUNE_BASE_URL", url)
    monkeypatch.setenv("ATTUNE_API_KEY", key)
    with Client(url, key) as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with standing_in() as source:
        attune("import", "fetch", "--from", source.base_url, "--output", tmp_path)
    return tmp_path


def pushed(folder: Path, *words: object, code: ExitCode = ExitCode.OK) -> dict[str, dict[str, Any]]:
    result = attune("import", "push", "--input", folder, "--yes", "--json", *words)
    assert result.exit_code == code, result.output
    report = json.loads(result.stdout)
    return {each["old"]: each for each in (*report["jobs"], *report["evals"])}


def test_jobs_arrive_with_their_files_and_hyperparameters(folder: Path, target: Client) -> None:
    made = pushed(folder)
    assert json.loads((folder / "bases.json").read_text()) == {BASE: "tiny"}
    first = target.get(f"/fine_tuning/jobs/{made['ftjob-0']['new']}")
    assert (first["model"], first["seed"], first["user_provided_suffix"]) == ("tiny", 7, "cards")
    expected = {"n_epochs": 3, "batch_size": 2, "learning_rate_multiplier": 1.8}
    assert expected.items() <= first["method"]["supervised"]["hyperparameters"].items()
    assert first["metadata"] == {"imported_from": "ftjob-0"}
    files = [target.get(f"/files/{first[name]}") for name in ("training_file", "validation_file")]
    assert [file["filename"] for file in files] == ["rows.jsonl", "valid-ation.jsonl"]
    assert len(target.listed("/files", limit=100)["data"]) == 2  # the jobs share them
    assert "training file" in made["ftjob-2"]["problem"]
    assert target.get(f"/evals/{made['eval_1']['new']}")["testing_criteria"] == EVAL["testing_criteria"]


def test_a_file_that_is_gone_at_the_source_is_replaced_by_a_copy(folder: Path, target: Client, tmp_path: Path) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(TRAINING * 2)
    for lost in (folder / "files" / "file-validation").iterdir():
        lost.unlink()
    words = ("--job", "ftjob-0", "--set", "validation_file=null")
    assert "validation file" in pushed(folder, *words[:2])["ftjob-0"]["problem"]
    assert target.get(f"/fine_tuning/jobs/{pushed(folder, *words)['ftjob-0']['new']}")["validation_file"] is None
    made = pushed(folder, "--job", "ftjob-2", "--set", f"training_file={copy}")["ftjob-2"]
    file = target.get(f"/fine_tuning/jobs/{made['new']}")["training_file"]
    assert target.get(f"/files/{file}")["filename"] == "copy.jsonl"


def test_the_plan_is_shown_before_and_needs_consent(folder: Path, target: Client) -> None:
    result = attune("import", "push", "--input", folder)
    assert result.exit_code == ExitCode.REFUSED
    assert "ftjob-0 (gpt-4o-mini-2024-07-18, supervised, n_epochs 3" in result.stderr
    assert "--yes" in result.stderr
    assert target.listed("/fine_tuning/jobs", limit=10)["data"] == []
    assert target.listed("/files", limit=10)["data"] == []


def test_an_eval_that_the_server_refuses_keeps_no_other_from_being_made(folder: Path, target: Client) -> None:
    near = {"type": "text_similarity", "name": "near", "evaluation_metric": "fuzzy_match"}
    near |= {"input": "{{sample.output_text}}", "reference": "{{item.answer}}"}
    broken = {**EVAL, "id": "eval_0", "testing_criteria": [{"type": "string_check", "name": "no input"}]}
    logs = {**EVAL, "id": "eval_2", "data_source_config": {"type": "logs", "schema": {}}}
    without_threshold = {**EVAL, "id": "eval_3", "testing_criteria": [near]}
    lines = (json.dumps(each) + "\n" for each in (broken, logs, without_threshold, EVAL))
    (folder / "evals.jsonl").write_text("".join(lines))
    assert "criterion no input: " in attune("import", "push", "--input", folder).stderr, "the plan names it"
    made = pushed(folder, "--job", "ftjob-2", code=ExitCode.REFUSED)
    assert "criterion no input: " in made["eval_0"]["problem"]
    assert "OpenAI only" in made["eval_2"]["problem"]
    assert "pass_threshold" in made["eval_3"]["problem"]
    assert made["eval_1"]["new"].startswith("eval_")


def test_the_table_of_base_models_is_the_users(folder: Path, target: Client) -> None:
    (folder / "bases.json").write_text(json.dumps({BASE: None, "own": "kept"}))
    assert "bases.json" in pushed(folder)["ftjob-0"]["problem"]
    assert json.loads((folder / "bases.json").read_text()) == {BASE: None, "own": "kept"}


def test_a_refusal_of_the_server_is_part_of_the_plan(folder: Path, target: Client) -> None:
    made = pushed(folder, "--set", "training.learning_rate=-1")
    assert "learning_rate" in made["ftjob-0"]["problem"]
    assert target.listed("/files", limit=10)["data"] == []


CHECKS = ("/fine_tuning/estimates", "/fine_tuning/alpha/graders/validate")
"""Requests of the plan, which make nothing."""


class Killed(BaseException):
    pass


def test_killed_after_each_request_that_makes_something_nothing_is_pushed_twice(
    folder: Path, target: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = httpx.Client.request

    def mortal(client: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response:
        response = request(client, method, path, **options)
        if method == "POST" and path not in CHECKS:
            raise Killed
        return response

    with monkeypatch.context() as patch:
        patch.setattr(httpx.Client, "request", mortal)
        for _ in ("training file", "validation file", "first job", "second job", "eval"):
            with pytest.raises(Killed):
                attune("import", "push", "--input", folder, "--yes")
    made = pushed(folder)
    paths = ("/fine_tuning/jobs", "/files", "/evals")
    jobs, files, evals = (target.listed(path, limit=100)["data"] for path in paths)
    assert {each["id"] for each in jobs} == {made["ftjob-0"]["new"], made["ftjob-1"]["new"]}
    assert len(files) == 2
    assert [each["id"] for each in evals] == [made["eval_1"]["new"]]


def test_a_job_that_the_server_refuses_keeps_no_other_from_being_made_but_an_outage_does(
    folder: Path, target: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, statuses = httpx.Client.request, [400, 403]

    def refusing(client: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response:
        if (method, path) == ("POST", "/fine_tuning/jobs") and statuses:
            return httpx.Response(statuses.pop(), json={"error": {"message": "Not now."}})
        return request(client, method, path, **options)

    monkeypatch.setattr(httpx.Client, "request", refusing)
    assert attune("import", "push", "--input", folder, "--yes").exit_code == ExitCode.NOT_AUTHORIZED
    made = pushed(folder, code=ExitCode.REFUSED)
    first, second = made["ftjob-1"], made["ftjob-0"]  # the stand-in lists its jobs as OpenAI does, newest first
    assert (first["problem"], first["new"], second["problem"]) == ("Not now.", None, None)
    assert second["new"].startswith("ftjob-")


def test_a_job_that_continues_another_waits_for_its_model(folder: Path, target: Client) -> None:
    jobs = [json.loads(line) for line in (folder / "jobs.jsonl").read_text().splitlines()]
    jobs[1] |= {"model": MODELS[0]}
    (folder / "jobs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in jobs))
    made = pushed(folder)
    assert made["ftjob-0"]["problem"] is None
    assert "first push the job that made it" in made["ftjob-1"]["problem"]


def test_a_base_model_of_the_same_name_comes_before_the_largest() -> None:
    assert suggested_base("gpt-4o", HERE) == "big"
    assert suggested_base("small", HERE) == "small"
    assert suggested_base("ft:gpt-4o:acme::1", HERE) is None
    assert suggested_base("gpt-4o", {"base_models": []}) is None


def test_no_other_model_takes_the_place_of_a_judge_unless_the_user_names_it(tmp_path: Path) -> None:
    judges = complete_judges(tmp_path, ["gpt-4o", "gpt-4.1", "small"], HERE)
    assert judges == {"gpt-4o": "gpt-4o", "gpt-4.1": None, "small": "small"}
    assert judges == json.loads((tmp_path / "judges.json").read_text())


def test_a_judge_is_replaced_only_by_what_the_table_names_and_the_plan_shows_it(folder: Path, target: Client) -> None:
    judge: dict[str, Any] = {"type": "label_model", "name": "polite", "model": "gpt-4o", "labels": ["yes", "no"]}
    judge |= {"passing_labels": ["yes"], "input": [{"role": "user", "content": "{{sample.output_text}}"}]}
    (folder / "evals.jsonl").write_text(json.dumps({**EVAL, "testing_criteria": [judge]}) + "\n")
    assert "no judge here for gpt-4o" in pushed(folder, "--job", "ftjob-2")["eval_1"]["problem"]
    assert json.loads((folder / "bases.json").read_text()).keys() == {BASE}
    (folder / "judges.json").write_text(json.dumps({"gpt-4o": "tiny"}))
    assert "polite, judge gpt-4o → tiny): new" in attune("import", "push", "--input", folder).stderr
    made = target.get(f"/evals/{pushed(folder, '--job', 'ftjob-2')['eval_1']['new']}")
    assert made["testing_criteria"][0]["model"] == "tiny"


def test_older_jobs_have_hyperparameters_only(tmp_path: Path) -> None:
    old = job(0, method=None, user_provided_suffix=None, hyperparameters={"n_epochs": 4, "batch_size": None})
    body = job_body(tmp_path, old, {BASE: "tiny"}, {})
    assert body["method"] == {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 4}}}
    assert body["suffix"] == "cards"


def test_graders_name_models_of_this_server() -> None:
    judge = {"type": "score_model", "name": "judge", "model": "gpt-4o", "input": []}
    grader = {"type": "multi", "graders": {"a": judge}, "calculate_output": "a"}
    assert models_in(grader) == {"gpt-4o"}
    assert with_judges_here(grader, {"gpt-4o": "tiny"})["graders"]["a"]["model"] == "tiny"


def test_an_eval_is_made_of_its_own_schema() -> None:
    body = eval_body(EVAL, {})
    assert body["data_source_config"] == {
        "type": "custom",
        "item_schema": {"type": "object", "properties": {"answer": {"type": "string"}}},
        "include_sample_schema": True,
    }
    assert body["metadata"] == {"imported_from": "eval_1"}
    assert body["testing_criteria"] == EVAL["testing_criteria"]


def test_a_terminal_shows_each_step_of_an_import(
    target: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("COLUMNS", "200")
    with standing_in() as source:
        origin = ("--from", source.base_url)
        for words, text in (
            (("inventory", *origin), "ftjob-0"),
            (("fetch", *origin, "--output", tmp_path), "holds 3 jobs"),
            (("record", *origin, "--input", tmp_path, "--yes"), MODELS[0]),
            (("push", "--input", tmp_path, "--yes"), "its training file could not be fetched"),
            (("compare", "--input", tmp_path), "ftjob-0"),
        ):
            code, shown = run_on_terminal("import", *words)
            assert (code, text in shown) == (0, True), shown
