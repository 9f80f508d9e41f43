"""`attune estimate` and `attune preview`."""

import re
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from api.cli.errors import ExitCode
from api.cli.main import app
from tests.api.cli.conftest import FakeServer

ESTIMATE: dict[str, Any] = {
    "allowed": True,
    "reasons": [],
    "train": {
        "rows": 12,
        "sampled_rows": 12,
        "truncated_rows": 1,
        "dropped_rows": 0,
        "tokens": 1200,
        "supervised_tokens": 600,
    },
    "total_steps": 9,
    "batch_size": 4,
    "n_epochs": 3,
    "trained_parameters": 5000,
    "parameters_exact": True,
    "memory": {"runtime": 10**6, "weights": 2 * 10**6, "total": 3 * 10**6},
    "seconds": 75,
}
SEQUENCE: dict[str, Any] = {
    "role": "text",
    "length": 4,
    "cut_at": 3,
    "supervised_tokens": 1,
    "token_texts": ["a", "b", "c", "d"],
    "spans": [[2, 3, 1.0]],
}


def attune(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_an_estimate_is_told_in_lines(server: FakeServer) -> None:
    server.answers["/v1/fine_tuning/estimates"] = ESTIMATE | {"warnings": ["'lora' leaves out mlp.gate"]}
    result = attune("estimate", "file-1", "-m", "tiny", "--technique", "lora", "--epochs", "3")
    assert "'lora' leaves out mlp.gate" in result.stdout
    assert result.exit_code == ExitCode.OK
    assert server.asked is not None
    assert server.asked["technique"] == {"type": "lora"}
    fields = dict(re.split(r"  +", line, maxsplit=1) for line in result.stdout.splitlines())
    assert (fields["allowed"], fields["steps"], fields["time"]) == ("yes", "9 of 4 rows, 3 epochs", "1 min 15 s")


def test_an_estimate_of_labels_names_no_supervised_tokens(server: FakeServer) -> None:
    server.answers["/v1/fine_tuning/estimates"] = ESTIMATE | {"train": ESTIMATE["train"] | {"supervised_tokens": 0}}
    assert "supervised" not in attune("estimate", "file-1", "-m", "tiny", "--method", "classification").stdout


def test_what_is_not_allowed_says_why_and_exits_so(server: FakeServer) -> None:
    refused = {"allowed": False, "reasons": [{"code": "no_gpu", "message": "No worker has a GPU", "param": None}]}
    server.answers["/v1/fine_tuning/estimates"] = ESTIMATE | refused
    result = attune("estimate", "file-1", "-m", "tiny")
    assert result.exit_code == ExitCode.REFUSED
    assert "No worker has a GPU" in result.stdout


def test_a_preview_marks_what_is_learnt_and_where_the_cut_is(server: FakeServer) -> None:
    row = {"row": 1, "label": None, "dropped": False, "sequences": [SEQUENCE], "findings": []}
    server.answers["/v1/fine_tuning/previews"] = {"rows": [row]}
    result = attune("preview", "file-1", "-m", "tiny", "--rows", "1")
    assert result.exit_code == ExitCode.OK
    assert "ab[[c]]|CUT|d" in result.stdout
    assert server.asked == {"model": "tiny", "training_file": "file-1", "rows": 1}


@pytest.mark.parametrize("command", ["estimate", "preview"])
def test_what_cannot_be_looked_at_is_an_error_in_a_line(server: FakeServer, command: str) -> None:
    result = attune(command, "nowhere.jsonl", "-m", "tiny")
    assert (result.exit_code, result.exception.__class__) == (2, SystemExit)
    assert result.stderr.startswith("error: nowhere.jsonl is neither a local file")
