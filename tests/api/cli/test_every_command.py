"""Each client command against the API itself: on a terminal, without one, and with --json."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from api.cli.main import CLIENT, COMMANDS, app
from api.context import Context
from api.eval_worker.worker import EvalWorker
from api.infra.webhook_signature import new_secret
from api.records import models, webhooks, workers
from api.records.base import db_now
from api.records.migrate import migrate
from api.services import keys
from api.settings import Settings
from api.spec.batch import BatchStatus
from api.spec.lifecycle import JobStatus, Stage
from api.spec.recipe import Recipe
from tests.api.cli.terminal import run_on_terminal
from tests.conftest import opened
from tests.factories import a_base_model, a_batch, a_file, a_job, a_model, a_project
from tests.services.parts import AttuneApi

REQUEST = b'{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {}}\n'
EVAL = {
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
ERROR = {"code": "empty_file", "message": "The input file has no requests", "param": None, "line": None}
ROW = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'

COMMAND_LINES = {
    "jobs list": ["jobs", "list", "--limit", "1"],
    "jobs get": ["jobs", "get", "JOB"],
    "jobs events": ["jobs", "events", "JOB"],
    "jobs metrics": ["jobs", "metrics", "JOB"],
    "jobs checkpoints": ["jobs", "checkpoints", "DONE"],
    "jobs compare": ["jobs", "compare", "JOB", "DONE"],
    "jobs wait": ["jobs", "wait", "DONE"],
    "jobs watch": ["jobs", "watch", "DONE"],
    "jobs clone": ["jobs", "clone", "JOB", "--rank", "8", "--epochs", "2"],
    "jobs rerun": ["jobs", "rerun", "JOB"],
    "jobs pause": ["jobs", "pause", "JOB"],
    "jobs resume": ["jobs", "resume", "PAUSED"],
    "jobs create": ["jobs", "create", "FILE", "--model", "tiny", "--method", "supervised"],
    "jobs cancel": ["jobs", "cancel", "JOB"],
    "pipelines list": ["pipelines", "list"],
    "files upload": ["files", "upload", "PATH"],
    "files list": ["files", "list", "--limit", "1"],
    "files get": ["files", "get", "FILE"],
    "evals create": ["evals", "create", "EVAL_BODY"],
    "evals list": ["evals", "list", "--limit", "1"],
    "evals run": ["evals", "run", "EVAL", "ANSWERS", "--name", "again"],
    "evals show": ["evals", "show", "EVAL"],
    "evals show run": ["evals", "show", "EVAL", "BASE_RUN"],
    "evals compare": ["evals", "compare", "EVAL", "BASE_RUN", "TUNED_RUN"],
    "evals cancel": ["evals", "cancel", "EVAL", "WAITING_RUN"],
    "batches create": ["batches", "create", "REQUESTS"],
    "batches list": ["batches", "list", "--limit", "1"],
    "batches get": ["batches", "get", "INVALID"],
    "batches watch": ["batches", "watch", "ANSWERED"],
    "batches cancel": ["batches", "cancel", "BATCH"],
    "batches download": ["batches", "download", "ANSWERED", "--output", "FOLDER"],
    "adapters download": ["adapters", "download", "MODEL", "--output", "FOLDER"],
    "catalog": ["catalog"],
    "catalog dpo": ["catalog", "dpo"],
    "catalog chat": ["catalog", "chat"],
    "workers": ["workers"],
    "usage": ["usage", "--by", "model", "--by", "key"],
    "whoami": ["whoami"],
    "doctor": ["doctor", "--base-url", "URL"],
    "webhooks list": ["webhooks", "list"],
    "webhooks deliveries": ["webhooks", "deliveries", "WEBHOOK"],
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Context, str]]:
    """What a running API works with, and its address. The environment names it and holds a key."""
    folder = tmp_path_factory.mktemp("service")
    settings = Settings(data_dir=folder, requests_per_second=1000)
    with opened(settings) as context, pytest.MonkeyPatch.context() as patch:
        migrate(context.database)
        _, key = keys.create(context, project="default", name="mine", scope="admin")
        server = AttuneApi(folder, settings)
        patch.setenv("ATTUNE_BASE_URL", server.base_url)
        patch.setenv("ATTUNE_API_KEY", key)
        patch.setenv("COLUMNS", "200")
        server.start()
        yield context, server.base_url
        server.stop()


@pytest.fixture(scope="module")
def names(service: tuple[Context, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    context, url = service
    project = a_project(context.database)
    a_base_model(context.database)
    model = a_model(context, project, contents={"adapter_config.json": b"{}"})
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_bytes(ROW * 12)
    requests = path.with_name("requests.jsonl")
    requests.write_bytes(REQUEST)
    with context.database.write() as session:
        workers.register(session, owner="host:name:id", stage=Stage.TRAIN, slots=2)
        workers.register(session, owner="host:name:no", stage=Stage.PREPARE, scanning=True)
        hook = webhooks.Webhook(
            id="webhook_1", project_id=project, name="hook", url="https://example.com", secret=new_secret(),
            event_types=["batch.failed"], created_at=db_now(), updated_at=db_now(),
        )  # fmt: skip
        session.add(hook)
        done = session.get_one(models.Model, model).job_id
    return {
        "DONE": done,
        "FILE": a_file(context, project, ROW * 12),
        "PATH": str(path),
        "MODEL": model,
        "FOLDER": str(path.parent / "download"),
        "WEBHOOK": "webhook_1",
        "URL": url,
        "REQUESTS": str(requests),
        "BATCH": a_batch(context, project, BatchStatus.IN_PROGRESS),
        "ANSWERED": a_batch(
            context, project, BatchStatus.COMPLETED, total=2, completed=2, output_file=a_file(context, project, REQUEST)
        ),
        **graded_runs(context, path.parent),
        "INVALID": a_batch(context, project, BatchStatus.FAILED, errors={"data": [ERROR]}),
    }


def graded_runs(context: Context, folder: Path) -> dict[str, str]:
    """An eval with two runs that were graded and one that waits, and what they were made from."""
    body, answers = folder / "eval.json", folder / "answers.jsonl"
    body.write_text(json.dumps(EVAL))
    answers.write_text(json.dumps({"item": {"answer": "Rome"}, "sample": {"output_text": "Oslo"}}))
    eval_id = _json("evals", "create", str(body))["id"]

    def run(name: str, *said: str) -> str:
        content = [{"item": {"answer": "Rome", "n": n}, "sample": {"output_text": text}} for n, text in enumerate(said)]
        source = json.dumps({"type": "file_content", "content": content})
        return str(_json("evals", "run", eval_id, "--name", name, "--set", f"data_source.source={source}")["id"])

    base, tuned = run("base", "Oslo", "Rome", "Lima"), run("tuned", "Rome", "Rome", "Oslo")
    asyncio.run(EvalWorker(context).run_until_idle())
    named = {"EVAL_BODY": str(body), "ANSWERS": str(answers), "EVAL": eval_id}
    return named | {"BASE_RUN": base, "TUNED_RUN": tuned, "WAITING_RUN": run("waiting", "Rome")}


@pytest.fixture
def line(request: pytest.FixtureRequest, service: tuple[Context, str], names: dict[str, str]) -> list[str]:
    """The command line, with real names in place of the words in capitals."""
    context, _ = service
    recipe = Recipe(model="tiny", training_file=names["FILE"]).model_dump(mode="json")
    jobs = {
        name: a_job(context.database, a_project(context.database), status, recipe=recipe)
        for name, status in (("JOB", JobStatus.QUEUED), ("PAUSED", JobStatus.PAUSED))
    }
    words: list[str] = COMMAND_LINES[request.param]
    return [(names | jobs).get(word, word) for word in words]


every_command = pytest.mark.parametrize("line", COMMAND_LINES, indirect=True)


@every_command
def test_without_a_terminal_nothing_steers_one(line: list[str]) -> None:
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert result.output


@every_command
def test_json_is_one_document_to_a_line_and_nothing_else(line: list[str]) -> None:
    result = CliRunner().invoke(app, [*line, "--json"])
    assert result.exit_code == 0, result.output
    documents = [json.loads(text) for text in result.stdout.splitlines()]
    assert len(documents) == 1 or line[:2] == ["jobs", "watch"]


@every_command
def test_a_terminal_shows_the_result(line: list[str]) -> None:
    code, shown = run_on_terminal(*line)
    assert code == 0, shown
    assert shown.strip()


def test_every_client_command_is_among_them() -> None:
    elsewhere = {"login", "logout", "chat", "estimate", "preview", "import"}  # other files test them
    clients = {name for name, (_, _, heading) in COMMANDS.items() if heading == CLIENT}
    assert {words[0] for words in COMMAND_LINES.values()} | elsewhere == clients | {"doctor"}


def test_tables_are_aligned_on_a_terminal_and_separated_by_tabs_elsewhere(names: dict[str, str]) -> None:
    _, shown = run_on_terminal("files", "list")
    lines = [line for line in shown.splitlines() if "file-" in line]
    purposes = [re.search(r"fine-tune|batch|evals", line) for line in lines]
    assert len({purpose and purpose.start() for purpose in purposes} - {None}) == 1
    assert "\t" not in shown
    assert "\t" in CliRunner().invoke(app, ["files", "list"]).stdout


def test_a_list_with_more_entries_names_the_options_for_them(names: dict[str, str]) -> None:
    result = CliRunner().invoke(app, ["files", "list", "--limit", "1"])
    shown = result.stdout.splitlines()[-1].split("\t")[0]
    assert result.stderr.startswith(f"1 shown, and there are more. For the next: --after {shown}")
    assert "there are more" not in CliRunner().invoke(app, ["files", "list", "--limit", "100"]).stderr


def test_the_scan_of_a_file_takes_no_slot_of_a_worker(names: dict[str, str]) -> None:
    rows = [line.split("\t") for line in CliRunner().invoke(app, ["workers"]).stdout.splitlines()]
    assert [row[3:5] for row in rows if row[1] == "prepare"] == [["0 of 1", "scan"]]


def test_a_job_says_why_it_waits(names: dict[str, str], service: tuple[Context, str]) -> None:
    context, _ = service
    a_job(context.database, a_project(context.database), JobStatus.QUEUED)
    (waiting,) = (job for job in _json("jobs", "list", "--limit", "1")["data"])
    shown = CliRunner().invoke(app, ["jobs", "get", waiting["id"]]).stdout
    assert re.search(rf"^waits +{re.escape(waiting['queue']['reason'])}", shown, re.MULTILINE)


@pytest.mark.parametrize("line", ["jobs get"], indirect=True)
def test_a_clone_changes_what_was_asked_and_keeps_the_rest(line: list[str]) -> None:
    clone = _json("jobs", "clone", line[2], "--method", "dpo", "--rank", "4", "--set", "training.max_length=64")
    assert (clone["technique"]["rank"], clone["training"]["max_length"], clone["method"]["type"]) == (4, 64, "dpo")


def test_two_runs_are_compared_item_by_item(names: dict[str, str]) -> None:
    runs = names["EVAL"], names["BASE_RUN"], names["TUNED_RUN"]
    comparison = _json("evals", "compare", *runs)
    assert comparison["common_items"] == 3
    ((before, after),) = comparison["differing_items"]
    assert (before["status"], after["status"]) == ("fail", "pass")
    lines = [text.split("\t") for text in CliRunner().invoke(app, ["evals", "compare", *runs]).stdout.splitlines()]
    assert lines[1:3] == [["exact", "33 %", "67 %"], ["all criteria", "33 %", "67 %"]]
    assert lines[-1] == ["1", "tuned", "Oslo", "Rome"]
    assert [item["status"] for item in _json("evals", "show", *runs[:2])["items"]] == ["fail", "fail"]


def test_a_run_that_asks_a_model_gets_its_message(names: dict[str, str]) -> None:
    prompt = "Where is {{ item.answer }}?"
    words = ["evals", "run", names["EVAL"], names["ANSWERS"], "--model", "tiny", "--prompt", prompt]
    source = _json(*words, "--set", "data_source.sampling_params.temperature=0")["data_source"]
    assert (source["type"], source["sampling_params"]["temperature"]) == ("completions", 0)
    assert source["input_messages"]["template"][0]["content"] == prompt


def _json(*words: str) -> Any:
    return json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)


def test_a_batch_takes_its_endpoint_from_the_file_and_its_errors_are_named(names: dict[str, str]) -> None:
    assert _json("batches", "create", names["REQUESTS"])["endpoint"] == "/v1/completions"
    result = CliRunner().invoke(app, ["batches", "watch", names["INVALID"]])
    assert (result.exit_code, result.stderr) == (1, "error: the batch failed: The input file has no requests\n")
    assert "has no files: it failed." in CliRunner().invoke(app, ["batches", "download", names["INVALID"]]).stderr


def test_a_webhook_is_notified_of_all_events_or_of_those_with_a_word(names: dict[str, str]) -> None:
    address = "https://example.com/hook"
    every = _json("webhooks", "create", address)["event_types"]
    assert {"batch.failed", "fine_tuning.job.failed"} < set(every)
    some = _json("webhooks", "create", address, "--event", "batch", "--event", "failed")["event_types"]
    assert some == [name for name in every if name.startswith("batch.") or name.endswith(".failed")]
    refused = CliRunner().invoke(app, ["webhooks", "create", address, "--event", "fail"])
    assert refused.exit_code == 2
    assert "no event is named fail. There are: batch.cancelled" in refused.stderr
