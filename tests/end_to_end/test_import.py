"""A project moves to another one of the same server with `attune import`: fetch, record, push, compare.

A second server would take another 20 s of processor time and show the same: `attune import` knows each side only by an
address and a key, and a key sees nothing of another project.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from openai import OpenAI
from typer.testing import CliRunner

from api.cli.main import app
from tests.end_to_end.jobs import create, ended, rows, upload, wait_until
from tests.services import AttuneUp
from tests.services.attune import ATTUNE

GRADER = {
    "type": "text_similarity",
    "name": "similar",
    "input": "{{sample.output_text}}",
    "reference": "{{item.reference_answer}}",
    "evaluation_metric": "fuzzy_match",
}


class Mover:
    """Somebody with a key of the project that is left, and one of the project that is moved to."""

    def __init__(self, server: AttuneUp, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.old, self.new = (self._key(project) for project in ("leaving", "arriving"))

    def _key(self, project: str) -> str:
        created = self.server.run("keys", "create", "--project", project, "--data-dir", str(self.server.data))
        return created.split()[-1]

    def client(self, key: str) -> OpenAI:
        return OpenAI(base_url=self.server.base_url, api_key=key)

    def run(self, *words: str) -> Any:
        """Run `attune import` in this process, which has imported it, and return its JSON."""
        done = CliRunner().invoke(app, ["import", *words, "--json"], env=self.variables)
        return self._read(done.exit_code, done.stdout, done.stderr)

    def run_alone(self, *words: str) -> Any:
        """Run `attune import` as a process, which never has a key in its command line, and return its JSON."""
        command = [ATTUNE, "import", *words, "--json"]
        with subprocess.Popen(
            command, env=os.environ | self.variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert self.old not in " ".join(psutil.Process(process.pid).cmdline())
            output, errors = process.communicate(timeout=120)
        return self._read(process.returncode, output, errors)

    @property
    def variables(self) -> dict[str, str]:
        return {"OPENAI_API_KEY": self.old, "ATTUNE_BASE_URL": self.server.base_url, "ATTUNE_API_KEY": self.new}

    def _read(self, code: int, output: str, errors: str) -> Any:
        assert code == 0, errors
        assert self.old not in output + errors
        return json.loads(output)


def graded(client: OpenAI) -> tuple[str, str]:
    """Return the ids of an eval and of its run, which has graded two answers."""
    criterion: Any = {
        "type": "string_check",
        "name": "equal",
        "operation": "eq",
        "input": "{{sample.output_text}}",
        "reference": "{{item.answer}}",
    }
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    config: Any = {"type": "custom", "item_schema": schema, "include_sample_schema": True}
    eval_id = client.evals.create(name="sums", data_source_config=config, testing_criteria=[criterion]).id
    rows: Any = [{"item": {"answer": "4"}, "sample": {"output_text": text}} for text in ("4", "5")]
    source: Any = {"type": "jsonl", "source": {"type": "file_content", "content": rows}}
    run_id = client.evals.runs.create(eval_id, name="run", data_source=source).id
    wait_until(lambda: client.evals.runs.retrieve(run_id, eval_id=eval_id).status in {"completed", "failed"}, 30)
    return eval_id, run_id


@pytest.fixture
def mover(live_server: AttuneUp, tmp_path: Path) -> Iterator[Mover]:
    mover = Mover(live_server, tmp_path / "export")
    yield mover
    for key in (mover.old, mover.new):
        jobs = mover.client(key).fine_tuning.jobs
        for job in jobs.list(limit=100):
            if job.status not in {"succeeded", "failed", "cancelled"}:
                jobs.cancel(job.id)


def test_a_project_moves_with_its_jobs_files_checkpoints_and_answers(mover: Mover, tmp_path: Path) -> None:
    source, target = mover.client(mover.old), mover.client(mover.new)
    training, validation = upload(source, rows(12)), upload(source, rows(3, seed=1))
    first = create(source, training, steps=2, validation_file=validation, suffix="cards")
    others = [create(source, training, steps=2, technique={"type": "lora", "rank": rank}) for rank in (2, 3)]
    eval_id, run_id = graded(source)
    model, *_ = [ended(source, job).fine_tuned_model for job in (first, *others)]
    from_here = ("--from", mover.server.base_url)
    found = mover.run_alone("inventory", *from_here)["data"]
    assert {item["kind"] for item in found} == {"job", "model", "checkpoint", "file", "eval"}
    assert all(item["available"] for item in found)

    report = mover.run("fetch", *from_here, "--output", str(mover.folder))
    assert (report["jobs"], report["evals"], report["unavailable"]) == (3, 1, [])
    items = (mover.folder / "evals" / eval_id / f"{run_id}.jsonl").read_text().splitlines()
    assert [json.loads(line)["status"] for line in items] == ["pass", "fail"]
    for old in (first, *others):
        checkpoints = (mover.folder / "jobs" / old / "checkpoints.jsonl").read_text().splitlines()
        old_model = str(source.fine_tuning.jobs.retrieve(old).fine_tuned_model)
        assert json.loads(checkpoints[0])["fine_tuned_model_checkpoint"].startswith(old_model)
    assert (mover.folder / "files" / training / "rows.jsonl").read_bytes() == rows(12)

    words = ("--input", str(mover.folder), "--yes")
    answers = mover.run("record", *from_here, *words, "--max-answer-tokens", "4")["models"]
    assert [(each["job"], each["answers"], each["open"]) for each in answers] == [(first, 3, 0)]

    chosen = [word for job in (first, *others) for word in ("--job", job)]
    report = mover.run("push", *words, *chosen)
    pushed = {each["old"]: each["new"] for each in (*report["jobs"], *report["evals"])}
    assert mover.run("push", *words, *chosen)["jobs"] == report["jobs"]
    arrived, left = target.evals.retrieve(pushed[eval_id]), source.evals.retrieve(eval_id)
    assert (arrived.data_source_config, arrived.testing_criteria) == (left.data_source_config, left.testing_criteria)
    for other in others:
        job = target.fine_tuning.jobs.cancel(pushed[other]).to_dict()
        assert job["technique"] == source.fine_tuning.jobs.retrieve(other).to_dict()["technique"]
    new_model = ended(target, pushed[first]).fine_tuned_model

    grader, page = tmp_path / "grader.json", tmp_path / "answers.html"
    grader.write_text(json.dumps(GRADER))
    options = ("--input", str(mover.folder), "--grader", str(grader), "--page", str(page))
    compared = mover.run("compare", *options)["jobs"][0]
    assert (compared["new_model"], compared["prompts"]) == (new_model, 3)
    assert compared["equal"] == 3  # the same seed on the same machine trains the same model
    assert compared["rewards"]["similar"]["old"] == compared["rewards"]["similar"]["new"] is not None
    assert str(model) in page.read_text()

    stored = [path.read_bytes() for path in mover.folder.rglob("*") if path.is_file()]
    assert not any(mover.old.encode() in content or mover.new.encode() in content for content in stored)
