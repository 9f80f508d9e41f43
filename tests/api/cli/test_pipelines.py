"""`attune pipelines`, against a real HTTP server."""

import json
from pathlib import Path
from typing import Any

import pytest

from api.cli import waiting
from api.cli.errors import ExitCode
from tests.api.cli.conftest import FakeServer, attune, job, message


def body_file(folder: Path, *files: str) -> Path:
    path = folder / "pipeline.json"
    stages = [{"name": f"s{index}", "training_file": file} for index, file in enumerate(files)]
    path.write_text(json.dumps({"model": "tiny", "stages": stages}))
    return path


def test_files_that_are_here_are_uploaded_once_and_named_by_their_ids(server: FakeServer, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": []}\n')
    made = attune("pipelines", "create", body_file(tmp_path, str(rows), str(rows), "file-9"))
    assert made.exit_code == ExitCode.OK, made.output
    assert "ftpipe-1: sft ftjob-1, dpo ftjob-1" in made.stdout
    assert server.created is not None
    assert [stage["training_file"] for stage in server.created["stages"]] == ["file-1", "file-1", "file-9"]
    assert server.requests.count("POST /v1/files") == 1


@pytest.mark.parametrize(
    ("ending", "code"),
    [(job("succeeded"), ExitCode.OK), (job("failed", error={"code": "c", "message": "m"}), ExitCode.JOB_FAILED)],
)
def test_watching_follows_every_stage_and_tells_how_it_went(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: dict[str, Any], code: ExitCode
) -> None:
    monkeypatch.setattr(waiting, "POLL_S", 0.0)
    server.scenes = [(ending, [message(1, "hello")])]
    result = attune("pipelines", "create", body_file(tmp_path, "file-1"), "--watch")
    assert result.exit_code == code
    assert result.stdout.count("hello") == 2
    assert "Stage dpo" in result.stderr


def test_stages_are_a_table(server: FakeServer) -> None:
    lines = [line.split("\t") for line in attune("pipelines", "get", "ftpipe-1").stdout.splitlines()]
    assert lines[-1] == ["dpo", "ftjob-1", "queued", "dpo", "lora", "sft", "-"]
    listed = attune("pipelines", "list").stdout.splitlines()
    assert listed[1].split("\t")[-1] == "sft queued, dpo queued"
    assert json.loads(attune("pipelines", "list", "--json").stdout)["data"][0]["id"] == "ftpipe-1"


def test_cancel_says_what_became_of_it(server: FakeServer) -> None:
    assert attune("pipelines", "cancel", "ftpipe-1").stdout == "ftpipe-1 is cancelled\n"
