"""`openai`, the command of openai-python 1.109.1, against a live server."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.clients.environments import command_line
from tests.services import AttuneUp

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]  # the first run makes the environment

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run(live_server: AttuneUp) -> Run:
    program = command_line()
    env = os.environ | {"OPENAI_BASE_URL": live_server.base_url, "OPENAI_API_KEY": live_server.api_key}

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([program, "api", *arguments], capture_output=True, text=True, env=env, check=False)

    return run


def told(done: "subprocess.CompletedProcess[str]") -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_job_is_made_followed_and_cancelled(run: Run, training_file: Path) -> None:
    file = told(run("files.create", "-f", str(training_file), "-p", "fine-tune"))
    assert file["id"] in run("files.list").stdout
    hyperparameters = json.dumps({"n_epochs": 50, "batch_size": 1, "learning_rate_multiplier": "auto"})
    job = told(run("fine_tuning.jobs.create", "-m", "tiny", "-F", file["id"], "-s", "cli", "-H", hyperparameters))
    assert [each["id"] for each in told(run("fine_tuning.jobs.list", "-l", "1"))["data"]] == [job["id"]]
    assert told(run("fine_tuning.jobs.cancel", "-i", job["id"]))["status"] == "cancelled"
    assert told(run("fine_tuning.jobs.retrieve", "-i", job["id"]))["user_provided_suffix"] == "cli"
    events = told(run("fine_tuning.jobs.list_events", "-i", job["id"], "-l", "1000"))["data"]
    assert events[-1]["message"] == f"Created fine-tuning job: {job['id']}"


def test_a_refusal_is_told_in_its_words(run: Run) -> None:
    refused = run("fine_tuning.jobs.create", "-m", "tiny", "-F", "file-none")
    assert refused.returncode == 1
    assert "No such File object: file-none" in refused.stderr


def test_models_are_listed_and_asked(run: Run) -> None:
    assert '"id": "tiny"' in run("models.list").stdout
    assert told(run("models.retrieve", "-i", "tiny"))["object"] == "model"
    chat = run("chat.completions.create", "-m", "tiny", "-g", "user", "hello", "-M", "4", "--stream")
    text = run("completions.create", "-m", "tiny", "-p", "hello", "-M", "4")
    assert (chat.returncode, text.returncode) == (0, 0), chat.stderr + text.stderr
