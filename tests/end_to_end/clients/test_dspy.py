"""DSPy's fine-tuning, unmodified, to the end."""

import json
import os
import subprocess
from pathlib import Path

import openai
import pytest

from tests.end_to_end.clients.environments import python_with_dspy
from tests.services import AttuneUp

SCRIPT = Path(__file__).with_name("dspy_finetune.py")


@pytest.mark.clients
@pytest.mark.timeout(600)  # the first run installs it
def test_dspy_finetunes_and_asks_what_it_made(live_server: AttuneUp, tmp_path: Path) -> None:
    found = {"OPENAI_BASE_URL": live_server.base_url, "OPENAI_API_KEY": live_server.api_key}
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | found
    command = [python_with_dspy(), SCRIPT, tmp_path / "told.json"]
    folders = {"DSPY_CACHEDIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=env | folders, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "told.json").read_text())
    client = openai.OpenAI(base_url=live_server.base_url, api_key=live_server.api_key)
    assert told["status"] == "succeeded"
    assert client.models.retrieve(told["model"]).id == told["model"]
    assert len(told["answer"]) == 1
    assert client.fine_tuning.jobs.retrieve(told["cancelled"]).status == "cancelled"
