"""Clients that others have written to the same API, and OpenAI's own of 2023: unmodified, from upload to an answer."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.clients.environments import python_with_litellm, python_with_openai_before_1_0
from tests.services import AttuneUp

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]  # the first run makes the environments

FOLDER = Path(__file__).parent


def run(command: list[str | Path], folder: Path, **variables: str) -> str:
    """What it prints."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"HOME": str(folder), "NO_PROXY": "*", **variables}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_litellm_fine_tunes_and_asks_as_it_does_openai_and_azure(
    live_server: AttuneUp, training_file: Path, tmp_path: Path
) -> None:
    told = tmp_path / "told.json"
    given: list[str | Path] = [live_server.base_url, live_server.api_key, training_file, told]
    run([python_with_litellm(), FOLDER / "litellm_jobs.py", *given], tmp_path, LITELLM_LOCAL_MODEL_COST_MAP="True")
    for provider, seen in json.loads(told.read_text()).items():
        assert seen["model"].startswith("ft:tiny:attune:lite:"), provider
        assert (seen["status"], seen["cancelled"]) == ("succeeded", "cancelled"), provider
        assert (seen["same"], seen["listed"], seen["deleted"]) == (True, True, True), provider
        assert seen["answer"]["same"], provider
        assert seen["answer"]["logprobs"] <= seen["answer"]["tokens"] <= 4, provider


def test_the_client_before_1_0_fine_tunes_and_asks(live_server: AttuneUp, training_file: Path, tmp_path: Path) -> None:
    command: list[str | Path] = [python_with_openai_before_1_0(), FOLDER / "before_1_0.py", training_file]
    where = {"OPENAI_API_BASE": live_server.base_url, "OPENAI_API_KEY": live_server.api_key}
    seen: dict[str, Any] = json.loads(run(command, tmp_path, **where))
    assert seen["version"].startswith("0.")
    assert (seen["status"], seen["cancelled"]) == ("succeeded", "cancelled")
    assert seen["latest_event"] == "The job has successfully completed"
    assert seen["results"].startswith("step,train_loss")
    assert "No such File object: file-none" in seen["refused"]
    assert (seen["listed"], seen["deleted"]) == (True, True)
    assert seen["chunks"] >= 2
    assert seen["tokens"] > 0
