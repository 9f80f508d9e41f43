"""Each command against the API and the data folder of a service: on a terminal, without one, and with --json."""

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from api.cli import uploads, waiting
from api.cli.client import Client
from api.cli.errors import ExitCode, RequestRefused
from api.cli.main import app
from api.context import Context
from api.eval_worker.worker import EvalWorker
from api.records import models, webhook_deliveries, workers
from api.records.migrate import migrate
from api.services import keys
from api.settings import Settings
from api.spec.batch import BatchStatus
from api.spec.ids import new_id
from api.spec.lifecycle import JobStatus, Stage
from api.spec.recipe import Recipe
from tests.api.cli.terminal import run_on_terminal
from tests.api.cli.test_main import help_pages
from tests.conftest import opened
from tests.factories import a_base_model, a_batch, a_file, a_job, a_model, a_project
from tests.receiver import receiving
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
    "pipelines create": ["pipelines", "create", "PIPELINE_BODY"],
    "pipelines list": ["pipelines", "list"],
    "pipelines get": ["pipelines", "get", "PIPELINE"],
    "pipelines cancel": ["pipelines", "cancel", "PIPELINE"],
    "files check": ["files", "check", "PATH"],
    "files upload": ["files", "upload", "PATH"],
    "files list": ["files", "list", "--limit", "1"],
    "files get": ["files", "get", "FILE"],
    "files content": ["files", "content", "FILE"],
    "files delete": ["files", "delete", "SPARE_FILE"],
    "evals create": ["evals", "create", "EVAL_BODY"],
    "evals list": ["evals", "list", "--limit", "1"],
    "evals run": ["evals", "run", "EVAL", "ANSWERS", "--name", "again"],
    "evals show": ["evals", "show", "EVAL"],
    "evals show run": ["evals", "show", "EVAL", "BASE_RUN"],
    "evals compare": ["evals", "compare", "EVAL", "BASE_RUN", "TUNED_RUN"],
    "evals cancel": ["evals", "cancel", "EVAL", "WAITING_RUN"],
    "evals watch": ["evals", "watch", "EVAL", "BASE_RUN"],
    "evals delete run": ["evals", "delete", "EVAL", "SPARE_RUN"],
    "evals delete": ["evals", "delete", "SPARE_EVAL"],
    "batches create": ["batches", "create", "REQUESTS"],
    "batches list": ["batches", "list", "--limit", "1"],
    "batches get": ["batches", "get", "INVALID"],
    "batches watch": ["batches", "watch", "ANSWERED"],
    "batches cancel": ["batches", "cancel", "BATCH"],
    "batches download": ["batches", "download", "ANSWERED", "--output", "FOLDER"],
    "adapters download": ["adapters", "download", "MODEL", "--output", "FOLDER"],
    "adapters delete": ["adapters", "delete", "SPARE_MODEL"],
    "catalog": ["catalog"],
    "catalog dpo": ["catalog", "dpo"],
    "catalog chat": ["catalog", "chat"],
    "workers": ["workers"],
    "usage": ["usage", "--by", "model", "--by", "key"],
    "whoami": ["whoami"],
    "open": ["open", "/jobs"],
    "login": ["login", "URL"],
    "logout": ["logout"],
    "webhooks create": ["webhooks", "create", "https://example.com/hook"],
    "webhooks list": ["webhooks", "list"],
    "webhooks test": ["webhooks", "test", "WEBHOOK"],
    "webhooks deliveries": ["webhooks", "deliveries", "WEBHOOK"],
    "webhooks replay": ["webhooks", "replay", "WEBHOOK", "DELIVERY"],
    "webhooks delete": ["webhooks", "delete", "SPARE_WEBHOOK"],
    "doctor": ["doctor", "--base-url", "URL"],
    "migrate": ["migrate", "--data-dir", "DATA"],
    "keys create": ["keys", "create", "--data-dir", "DATA"],
    "keys list": ["keys", "list", "--data-dir", "DATA"],
    "keys revoke": ["keys", "revoke", "SPARE_KEY", "--data-dir", "DATA"],
    "models list": ["models", "list", "--data-dir", "DATA"],
    "models verify": ["models", "verify", "tiny", "--data-dir", "DATA"],
    "models remove": ["models", "remove", "SPARE_BASE", "--data-dir", "DATA"],
    "projects list": ["projects", "list", "--data-dir", "DATA"],
    "projects budget": ["projects", "budget", "other", "--trained-tokens", "5", "--data-dir", "DATA"],
    "storage check": ["storage", "check", "--data-dir", "DATA"],
    "storage claim": ["storage", "claim", "--data-dir", "DATA"],
    "storage collect": ["storage", "collect", "--data-dir", "DATA"],
    "signing list": ["signing", "list", "--data-dir", "DATA"],
    "signing rotate": ["signing", "rotate", "--data-dir", "DATA"],
    "backup": ["backup", "NEW_FOLDER", "--data-dir", "DATA"],
    "restore": ["restore", "BACKUP", "--data-dir", "NEW_FOLDER"],
    "completion": ["completion", "bash"],
}
TEXTS = {"files content", "completion"}
"""Commands whose result is a text that has no form in JSON."""
ELSEWHERE = {
    "jobs log": "test_jobs.py, end_to_end/test_terminal.py",
    "chat": "test_chat.py, end_to_end/test_terminal.py",
    "estimate": "test_estimate.py, end_to_end/test_terminal.py",
    "preview": "test_estimate.py, end_to_end/test_terminal.py",
    "adapters verify": "worker/engine/publish/test_published.py",
    "import inventory": "test_import_fetch.py",
    "import fetch": "test_import_fetch.py",
    "import record": "test_import_record.py",
    "import push": "test_import_push.py",
    "import compare": "test_import_compare.py",
    "models add": "test_admin.py",
    "up": "test_servers_on_terminal.py, and the live server of many tests",
    "api": "test_servers_on_terminal.py, and the server of these tests",
    "worker": "test_servers_on_terminal.py, and end_to_end/test_production.py",
    "demo": "trains for minutes: `make demo`",
}
"""Commands that are not among them, with what tests each."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Context, str]]:
    """What a running API works with, and its address. The environment names it and holds a key."""
    folder = tmp_path_factory.mktemp("service")
    settings = Settings(data_dir=folder, requests_per_second=1000, webhook_private_hosts="127.0.0.1")
    with opened(settings) as context, pytest.MonkeyPatch.context() as patch:
        migrate(context.database)
        _, key = keys.create(context, project="default", name="mine", scope="admin")
        server = AttuneApi(folder, settings)
        patch.setenv("ATTUNE_BASE_URL", server.base_url)
        patch.setenv("ATTUNE_API_KEY", key)
        patch.setenv("COLUMNS", "200")
        patch.setenv("BROWSER", str(a_browser(folder)))
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        server.start()
        yield context, server.base_url
        server.stop()


def a_browser(folder: Path) -> Path:
    """A program that keeps what it is asked to show."""
    script = folder / "browser"
    script.write_text(f'#!/bin/sh\ncp "${{1#file://}}" {folder / "shown.html"}\n')
    script.chmod(0o700)
    return script


@pytest.fixture(scope="module")
def names(service: tuple[Context, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    context, url = service
    project = a_project(context.database)
    a_base_model(context.database)
    model = a_model(context, project, contents={"adapter_config.json": b"{}"})
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_bytes(ROW * 12)
    requests = path.with_name("requests.jsonl")
    requests.write_bytes(REQUEST)
    file = a_file(context, project, ROW * 12)
    stage = {"name": "learn", "training_file": file, "method": {"type": "supervised"}}
    pipeline = path.with_name("pipeline.json")
    pipeline.write_text(json.dumps({"model": "tiny", "stages": [stage]}))
    a_project(context.database, "other")
    with context.database.write() as session:
        workers.register(session, owner="host:name:id", stage=Stage.TRAIN, slots=2)
        workers.register(session, owner="host:name:no", stage=Stage.PREPARE, scanning=True)
        done = session.get_one(models.Model, model).job_id
    with receiving() as receiver:
        hook = _json("webhooks", "create", receiver.url)["id"]
        with context.database.write() as session:
            webhook_deliveries.enqueue(session, project, "batch_1", "batch.failed")
        (delivery,) = _json("webhooks", "deliveries", hook)["data"]
        yield {
            "DONE": done,
            "FILE": file,
            "DATA": str(context.settings.data_dir),
            "PIPELINE_BODY": str(pipeline),
            "DELIVERY": delivery["id"],
            "PATH": str(path),
            "MODEL": model,
            "FOLDER": str(path.parent / "download"),
            "WEBHOOK": hook,
            "URL": url,
            "REQUESTS": str(requests),
            "BATCH": a_batch(context, project, BatchStatus.IN_PROGRESS),
            "ANSWERED": a_batch(
                context,
                project,
                BatchStatus.COMPLETED,
                total=2,
                completed=2,
                output_file=a_file(context, project, REQUEST),
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
def line(
    request: pytest.FixtureRequest, service: tuple[Context, str], names: dict[str, str], tmp_path: Path
) -> list[str]:
    """The command line, with real names in place of the words in capitals."""
    context, url = service
    project = a_project(context.database)
    recipe = Recipe(model="tiny", training_file=names["FILE"]).model_dump(mode="json")
    data, new = ("--data-dir", names["DATA"]), str(tmp_path / "new")
    spare: dict[str, Callable[[], str]] = {
        "JOB": lambda: a_job(context.database, project, JobStatus.QUEUED, recipe=recipe),
        "PAUSED": lambda: a_job(context.database, project, JobStatus.PAUSED, recipe=recipe),
        "SPARE_FILE": lambda: a_file(context, project),
        "SPARE_MODEL": lambda: a_model(context, project),
        "SPARE_BASE": lambda: a_base_model(context.database, new_id("spare-")),
        "SPARE_KEY": lambda: str(_json("keys", "create", *data)["id"]),
        "SPARE_EVAL": lambda: str(_json("evals", "create", names["EVAL_BODY"])["id"]),
        "SPARE_RUN": lambda: str(_json("evals", "run", names["EVAL"], names["ANSWERS"])["id"]),
        "SPARE_WEBHOOK": lambda: str(_json("webhooks", "create", "https://example.com/spare")["id"]),
        "PIPELINE": lambda: str(_json("pipelines", "create", names["PIPELINE_BODY"])["id"]),
        "BACKUP": lambda: _backed_up(tmp_path / "backup", *data),
        "NEW_FOLDER": lambda: new,
    }
    words: list[str] = COMMAND_LINES[request.param]
    if words == ["logout"]:
        _json("login", url)
    return [spare[word]() if word in spare else names.get(word, word) for word in words]


every_command = pytest.mark.parametrize("line", COMMAND_LINES, indirect=True)


@every_command
def test_without_a_terminal_nothing_steers_one(line: list[str]) -> None:
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert result.output


@pytest.mark.parametrize("line", [name for name in COMMAND_LINES if name not in TEXTS], indirect=True)
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


def test_every_command_is_among_them_or_tested_elsewhere() -> None:
    commands = {words.removeprefix("attune ") for words, command in help_pages() if not hasattr(command, "commands")}
    lines = [" ".join(line) + " " for line in COMMAND_LINES.values()]
    here = {name for name in commands if any(line.startswith(f"{name} ") for line in lines)}
    assert here ^ ELSEWHERE.keys() == commands


@pytest.mark.parametrize(
    ("stop", "code"),
    [
        (KeyboardInterrupt(), 130),
        (RequestRefused(ExitCode.UNAVAILABLE, "too busy", "too_busy", 503), ExitCode.UNAVAILABLE),
    ],
)
def test_an_interrupted_upload_in_parts_is_continued(
    stop: BaseException, code: int, names: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "MAX_OUTAGE_S", -1.0)
    monkeypatch.setattr(uploads, "MIN_BYTES", 0)
    monkeypatch.setattr(uploads, "PART_BYTES", 300)
    path, sent = tmp_path / "large.jsonl", []

    def send(client: Client, upload_path: str, data: bytes) -> Any:
        sent.append(data)
        if len(sent) == 3:
            raise stop
        return real(client, upload_path, data)

    real = Client.upload_part
    monkeypatch.setattr(Client, "upload_part", send)
    path.write_bytes(ROW * 12)
    interrupted = CliRunner().invoke(app, ["files", "upload", str(path)])
    assert interrupted.exit_code == code
    assert "repeat the command" in interrupted.stderr
    file = _json("files", "upload", str(path))
    assert b"".join(sent[:2] + sent[3:]) == ROW * 12
    assert (file["filename"], file["sha256"]) == ("large.jsonl", hashlib.sha256(ROW * 12).hexdigest())
    assert _json("files", "upload", str(path))["id"] != file["id"]


def test_a_browser_gets_a_link_that_no_command_line_shows(service: tuple[Context, str]) -> None:
    code, shown = run_on_terminal("open", "jobs/ftjob-1")
    assert code == 0
    assert "The browser opens it." in shown
    page = (service[0].settings.data_dir / "shown.html").read_text()
    (link,) = re.findall(rf"{service[1].removesuffix('/v1')}/sign-in#token=[\w-]+&page=/jobs/ftjob-1", shown)
    assert link in unescape(page)


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


def test_jobs_are_listed_by_filters(names: dict[str, str], service: tuple[Context, str]) -> None:
    recipe = Recipe(model="tiny", training_file="file-none", method={"type": "kto"}).model_dump(mode="json")
    job_id = a_job(service[0].database, a_project(service[0].database), JobStatus.PAUSED, recipe=recipe)
    day = f"{datetime.now():%Y-%m-%d}"
    options = ["--method", "kto", "--status", "paused", "--model", "tiny", "--search", job_id[6:], "--since", day]
    assert [job["id"] for job in _json("jobs", "list", *options)["data"]] == [job_id]
    for none in (["--until", day], ["--metadata", "team=maps"]):
        assert _json("jobs", "list", *options, *none)["data"] == []
    refused = CliRunner().invoke(app, ["jobs", "list", "--metadata", "team"])
    assert (refused.exit_code, refused.stderr) == (2, "error: --metadata team has no value: write it as KEY=VALUE.\n")
    assert "there are supervised" in CliRunner().invoke(app, ["jobs", "list", "--method", "sft"]).stderr


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


def test_a_refused_run_leaves_no_copy_of_its_rows(names: dict[str, str]) -> None:
    files = _json("files", "list")["data"]
    words = ["evals", "run", names["EVAL"], names["ANSWERS"]]
    for refused in (["--model", "none"], ["--prompt", "{{ item.answer }}"], ["--set", "nonsense"]):
        assert CliRunner().invoke(app, [*words, *refused]).exit_code == ExitCode.REFUSED
    assert "give a file" in CliRunner().invoke(app, words[:3]).stderr
    assert _json("files", "list")["data"] == files


def _backed_up(folder: Path, *data: str) -> str:
    _json("backup", str(folder), *data)
    return str(folder)


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
