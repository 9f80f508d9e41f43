"""Today's code opens what the release before the folders were reordered left behind (tests/upgrade/make.py)."""

import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.jobs import client_of, ended
from tests.services import AttuneUp
from tests.services.attune import ATTUNE

LEFT = Path(__file__).parent / "left"
RENAMED = {
    "quantisation": "quantization",
    "double_quantisation": "double_quantization",
    "length_normalised": "length_normalized",
    "answers_per_prompt": "num_generations",
    "updates": "num_ppo_epochs",
    "missing_end_penalty": "missing_eos_penalty",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttuneUp]:
    server = AttuneUp(tmp_path_factory.mktemp("upgraded"))
    with tarfile.open(LEFT / "data.tar.xz") as archive:
        archive.extractall(server.folder, filter="data")
    try:
        server.start()
        yield server
    finally:
        server.stop()


def lacks(answer: Any, before: Any, path: str) -> list[str]:
    """Places where an answer differs from the older one. New fields are none."""
    if isinstance(before, dict) and isinstance(answer, dict):
        keys = [(key, key if key in answer else RENAMED.get(key, key)) for key in before]
        return [place for old, new in keys for place in lacks(answer.get(new), before[old], f"{path}.{old}")]
    if isinstance(before, list) and isinstance(answer, list) and len(before) == len(answer):
        pairs = enumerate(zip(answer, before, strict=True))
        return [place for index, (new, old) in pairs for place in lacks(new, old, f"{path}[{index}]")]
    return [] if answer == before else [f"{path}: {before!r} became {answer!r}"]


def test_every_answer_of_the_older_release_is_given_again(server: AttuneUp) -> None:
    client = client_of(server)
    before = json.loads((LEFT / "answers.json").read_bytes())
    differing = [
        place for path, answer in before.items() for place in lacks(client.get(path, cast_to=object), answer, path)
    ]
    assert not differing


def test_a_paused_job_of_the_older_release_resumes_and_its_model_answers(server: AttuneUp) -> None:
    client = client_of(server)
    (paused,) = (job for job in client.fine_tuning.jobs.list() if str(job.status) == "paused")
    step = paused.model_extra["progress"]["step"]  # type: ignore[index]
    client.fine_tuning.jobs.resume(paused.id)
    job = ended(client, paused.id, 280)
    assert job.status == "succeeded"
    steps = [event.data["step"] for event in client.fine_tuning.jobs.list_events(paused.id) if event.type == "metrics"]  # type: ignore[index]
    assert len(steps) == len(set(steps)), "a step was trained twice"
    assert max(steps) > step
    chat = client.chat.completions.create(model=job.fine_tuned_model, messages=[{"role": "user", "content": "abcd"}])
    assert chat.choices[0].finish_reason in {"stop", "length"}


def test_an_adapter_of_the_older_release_is_what_was_published(tmp_path: Path) -> None:
    shutil.copy(LEFT / "adapter.tar", tmp_path)
    command = [ATTUNE, "adapters", "verify", str(tmp_path / "adapter.tar"), "--json", "--files-only"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["problems"]) == (0, [])
