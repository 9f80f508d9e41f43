"""`attune jobs`, against a real HTTP server."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from api.cli.errors import ExitCode
from tests.api.cli.conftest import FakeServer, attune, message
from tests.source import ROOT


def test_create_uploads_a_local_file_and_sends_only_what_was_asked_for(server: FakeServer, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": []}\n')
    result = attune("jobs", "create", rows, "--model", "tiny")
    assert result.exit_code == ExitCode.OK
    assert server.uploaded is not None
    assert rows.read_bytes() in server.uploaded
    assert server.created == {"model": "tiny", "training_file": "file-1"}
    assert "attune jobs watch ftjob-1" in result.stdout


def test_a_job_that_would_be_refused_uploads_nothing(server: FakeServer, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": []}\n')
    reason = {"code": "cannot_merge", "message": "cannot be merged", "param": "export.merged"}
    server.answers["/v1/fine_tuning/estimates"] = {"allowed": False, "reasons": [reason]}
    result = attune("jobs", "create", rows, "--model", "tiny", "--set", "export.merged=true")
    assert result.exit_code == ExitCode.REFUSED
    assert "cannot be merged (field: export.merged)" in result.stderr
    assert (server.uploaded, server.created) == (None, None)


def test_create_puts_each_option_where_the_recipe_has_it(server: FakeServer) -> None:
    options = "--technique lora --rank 8 --epochs 2 --batch-size auto --learning-rate 1e-3 --max-steps 7 --seed 5"
    more = "--suffix house --validation file-v --set training.max_length=512 --set metadata.team=red"
    assert attune("jobs", "create", "file-t", "-m", "tiny", *options.split(), *more.split()).exit_code == ExitCode.OK
    assert server.created == {
        "model": "tiny",
        "training_file": "file-t",
        "validation_file": "file-v",
        "suffix": "house",
        "seed": 5,
        "technique": {"type": "lora", "rank": 8},
        "training": {"learning_rate": 1e-3, "max_steps": 7, "max_length": 512},
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}}},
        "metadata": {"team": "red"},
    }


def test_options_without_a_type_are_those_of_the_default_one(server: FakeServer) -> None:
    attune("jobs", "create", "file-1", "-m", "tiny", "--set", "technique.alpha=64", "--epochs", "auto")
    assert server.created is not None
    assert server.created["technique"] == {"type": "lora", "alpha": 64}
    assert server.created["method"]["type"] == "supervised"


def test_options_override_the_body_file(server: FakeServer, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"model": "tiny", "training_file": "file-b", "seed": 1, "method": {"type": "dpo"}}))
    assert attune("jobs", "create", "--body", body, "--seed", "2", "--epochs", "1").exit_code == ExitCode.OK
    assert server.created is not None
    assert (server.created["training_file"], server.created["seed"]) == ("file-b", 2)
    assert server.created["method"] == {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 1}}}


def test_a_body_may_name_its_files_by_their_paths(server: FakeServer, tmp_path: Path) -> None:
    rows, body = tmp_path / "rows.jsonl", tmp_path / "body.json"
    rows.write_text('{"text": "a"}\n')
    body.write_text(json.dumps({"model": "tiny", "training_file": "file-t", "validation_file": str(rows)}))
    assert attune("jobs", "create", "--body", body).exit_code == ExitCode.OK
    assert server.created == {"model": "tiny", "training_file": "file-t", "validation_file": "file-1"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["file-1"], "--model"),
        (["-m", "tiny"], "no training file"),
        (["nowhere.jsonl", "-m", "tiny"], "neither a local file nor"),
        (["file-1", "-m", "tiny", "--set", "oops"], "name=value"),
        (["file-1", "-m", "tiny", "--set", "model.x=1"], "is already set to a plain value"),
        (["--body", "absent.json"], "cannot read absent.json"),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_is_sent(
    server: FakeServer, words: list[str], said: str
) -> None:
    result = attune("jobs", "create", *words)
    assert result.exit_code == ExitCode.REFUSED
    assert said in result.stderr
    assert server.requests == []


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_a_number_that_json_cannot_hold_is_refused(server: FakeServer, number: str) -> None:
    result = attune("jobs", "create", "file-1", "--model", "tiny", "--set", f"training.learning_rate={number}")
    assert result.exit_code == ExitCode.REFUSED
    assert "JSON has no NaN" in result.stderr
    assert server.created is None


def test_list_turns_pages_up_to_the_limit_and_prints_no_control_character(server: FakeServer) -> None:
    result = attune("jobs", "list", "--limit", "2")
    assert [line.split("\t")[1] for line in result.stdout.splitlines()] == ["STATUS", "succeeded", "failed"]
    assert "\x1b" not in result.stdout


def test_json_is_one_document_with_what_the_server_said(server: FakeServer) -> None:
    jobs = json.loads(attune("jobs", "list", "--json").stdout)
    assert [job["status"] for job in jobs["data"]] == ["succeeded", "failed"]


def test_get_shows_the_fields_that_have_a_value(server: FakeServer) -> None:
    shown = dict(line.split("  ", 1) for line in attune("jobs", "get", "ftjob-1").stdout.splitlines())
    assert shown["status"].strip() == "running"
    assert "error" not in shown
    assert (shown["host"].strip(), shown["worker"].strip()) == ("gpu-8", "gpu-8:train-1:cd34")


def test_checkpoints_show_their_scores_and_the_best(server: FakeServer) -> None:
    result = {"eval_id": "eval_a", "run_id": "evalrun_a", "model": "ft:x:ckpt-step-5", "score": 0.75, "best": True}
    checkpoint = {"step_number": 5, "metrics": {}, "created_at": 1, "fine_tuned_model_checkpoint": "ft:x:ckpt-step-5"}
    worse = {**checkpoint, "step_number": 4, "evals": [{**result, "score": None, "best": False}]}
    listed = {"data": [{**checkpoint, "evals": [result]}, worse], "has_more": False}
    server.answers["/v1/fine_tuning/jobs/ftjob-1/checkpoints"] = listed
    lines = [line.split("\t") for line in attune("jobs", "checkpoints", "ftjob-1").stdout.splitlines()]
    assert [line[1] for line in lines] == ["SCORE", "75.0 % (best)", "-"]
    server.scenes[0][0]["evals"] = [result]
    assert "ft:x:ckpt-step-5 75.0 % (best) by eval_a" in attune("jobs", "get", "ftjob-1").stdout


def test_events_come_oldest_first(server: FakeServer) -> None:
    server.events = [message(n, f"number {n}") for n in range(1, 6)]
    lines = attune("jobs", "events", "ftjob-1", "--limit", "3").stdout.splitlines()
    assert [line.split("  ")[1] for line in lines] == ["number 3", "number 4", "number 5"]


def test_pause_says_when_it_will_take_effect(server: FakeServer) -> None:
    assert "once its state is saved" in attune("jobs", "pause", "ftjob-1").stdout


def test_what_the_server_refuses_is_said_in_its_words(server: FakeServer) -> None:
    result = attune("jobs", "cancel", "ftjob-1")
    assert (result.exit_code, result.stdout) == (ExitCode.REFUSED, "")
    assert "the job has ended" in result.stderr


def test_an_unknown_job_is_refused_with_the_field(server: FakeServer) -> None:
    result = attune("jobs", "get", "../../secrets")
    assert result.exit_code == ExitCode.REFUSED
    assert "No such object (field: id)" in result.stderr


def test_log_prints_what_the_trainers_wrote_and_nothing_that_steers_the_terminal(server: FakeServer) -> None:
    result = attune("jobs", "log", "ftjob-1")
    assert result.exit_code == ExitCode.OK
    assert result.stdout.splitlines()[0] == "=== training from 2026"
    assert "red" in result.stdout
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize(
    "options",
    [["--method", "dpo"], ["--set", "method.type=dpo"], ["--set", "method.dpo.loss=ipo"]],
)
def test_epochs_belong_to_the_method_however_it_is_named(server: FakeServer, options: list[str]) -> None:
    assert attune("jobs", "create", "file-1", "-m", "tiny", "--epochs", "2", *options).exit_code == ExitCode.OK
    assert server.created is not None
    assert server.created["method"]["type"] == "dpo"
    assert server.created["method"]["dpo"]["hyperparameters"] == {"n_epochs": 2}
    assert "supervised" not in server.created["method"]


def test_a_closed_pipe_ends_a_command_silently(server: FakeServer) -> None:
    program = f"{sys.executable} -m api.cli jobs list | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.stdout, done.stderr) == ("", "")
    assert done.returncode in (ExitCode.OK, ExitCode.PIPE_CLOSED)
