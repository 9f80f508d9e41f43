"""Every command and program of the README and of docs/ runs against the `live_server`, in the order of its page; so do
the examples. Bodies are sent to it, and files of settings are loaded. NOT_RUN names the exceptions."""

import json
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import openai
import pytest
from typer.testing import CliRunner

from api.cli.main import app
from api.infra import webhook_signature
from tests.docs.blocks import PAGES, ROOT, Block, blocks
from tests.docs.command_lines import require_parsed
from tests.docs.conftest import MODEL, User
from tests.docs.documents import Documents, load_toml, read_ini, read_yaml

pytestmark = pytest.mark.timeout(600)

NOT_RUN = {
    r"make |source |\.venv/bin/pytest ": "set-up, or hours",
    r"pipx ": "installs torch; tests/test_wheel.py runs what it installs of Attune",
    r"(\.venv/bin/)?attune up": "the server of these tests is this command",
    r"(\.venv/bin/)?attune models add \S+ \S+/": "downloads from a hub",
    r"attune demo": "minutes, and it replaces the process; `make demo` is the same program",
    r"set -a;": "reads a file of an operator's machine; documents.py reads the page's in the same way",
    r"attune (api|worker) ": "servers: tests/end_to_end/test_production.py starts each",
    r"docker ": "needs an engine and an image registry; `make images-check` builds and runs the images",
    r"pg_dump |aws ": "programs of others",
    r"attune (models remove|adapters delete) ": "other pages need the models; test_every_command.py runs both",
    r"(VLLM_\S+ )?vllm ": "not installed here",
    r"attune import ": "asks OpenAI; tests/end_to_end/test_import.py runs each of them",
    r"attune evals run EVAL openai-export/": "grades rows that `attune import` fetched",
    r"pip install |lm-eval ": "in an environment of its own; tests/end_to_end/clients/test_lm_eval.py runs it",
    r"attune adapters download JOB --gguf": "llama.cpp knows another tokenizer only; test_gguf.py exports with it",
    r"export OPENAI_": "the tests set both variables",
}
"""Commands that no test runs, with the reason. Those of `attune` are parsed."""
NOT_RUN_PYTHON = {"# at OpenAI": "needs OpenAI"}
"""First lines of programs that no test runs. They are compiled."""
EXIT_CODES = {"attune files check broken.jsonl": 2}
"""The exit codes of commands that fail on purpose, the first time that a page has them."""
REFUSED = {"integrations=": "integration_not_configured"}
"""Parts of programs that this server refuses, with the code."""
OPERATOR = ("keys", "migrate", "projects", "storage")
"""Commands that open the database of the live server. (`backup` names its data folder.)"""
SHELL = re.compile(r"[|<>&$`]")
"""Characters in commands that only a shell understands."""
STAGE = re.compile(r"attune jobs (pause|resume|cancel) JOB")


@pytest.mark.parametrize("page", [page for page in PAGES if [*blocks(page)]], ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page: Path, user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(user.folder)
    for name, value in user.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "path", [str(user.folder / "examples"), *sys.path])
    follower = Follower(user, monkeypatch)
    for block in blocks(page):
        try:
            follower.follow(block)
        except (Exception, SystemExit) as error:
            pytest.fail(f"{block.place}: {type(error).__name__}: {error}\n\n{block.text}")
    user.cancel_all()


class Follower:
    """Runs the blocks of one page, one after the other."""

    def __init__(self, user: User, monkeypatch: pytest.MonkeyPatch) -> None:
        self.user = user
        self.monkeypatch = monkeypatch
        self.documents = Documents(user)
        self.job = finished_job(user)
        self.names: dict[str, Any] = {"client": user.client, "json": json, "OpenAI": openai.OpenAI, "job": self.job}
        self.names["file"] = user.client.files.retrieve(self.job.training_file)
        self.exit_codes = dict(EXIT_CODES)
        self.held = ""
        """The job that the page pauses, resumes or cancels."""

    def follow(self, block: Block) -> None:
        kinds: Mapping[str, Callable[[Block], None]] = {
            "bash": self.commands,
            "python": self.program,
            "json": self.documents.use,
            "toml": lambda block: load_toml(block, self.user.folder, self.monkeypatch),
            "yaml": read_yaml,
            "ini": lambda block: read_ini(block, self.user.folder),
            "": lambda block: None,  # output, and drawings
        }
        kinds[block.language](block)

    def commands(self, block: Block) -> None:
        for line in block.commands():
            if any(re.match(pattern, line) for pattern in NOT_RUN):
                require_parsed(line)
            else:
                self.run(self.filled(line))

    def filled(self, line: str) -> str:
        """Return the command with values in place of the words in capitals."""
        job = self.staged(stage[1]) if (stage := STAGE.match(line)) else self.job.id
        line = re.sub(r"(?<= )/(?=backups|srv)", f"{self.user.folder}/", line).replace(
            "attune-data ", f"{self.user.data} "
        )
        line = re.sub(r"(?<=attune login )\S+", self.user.base_url, line)
        values = {"JOB": job, "MODEL": str(self.job.fine_tuned_model), "FILE": self.job.training_file}
        if "grading" in self.names:
            values["EVAL"] = self.names["grading"].id
        words = "|".join(values)
        return re.sub(rf"(?<![\w$])({words})\b", lambda word: values[word[0]], line)

    def staged(self, action: str) -> str:
        """Return a job in the status that the action needs."""
        if not self.held:
            hyperparameters = {"n_epochs": 50, "batch_size": 1}  # seconds, in which it is paused
            method = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
            self.held = self.user.create(method=method).id
            self.user.wait(self.held, "queued", "running")
        if action == "resume":
            self.user.wait(self.held, "paused")
        return self.held

    def run(self, line: str) -> None:
        words = shlex.split(line, comments=True)
        if words[0] == "python":  # here, where torch and the client are imported already
            arguments, sys.argv = sys.argv, words[1:]
            try:
                runpy.run_path(words[1], run_name="__main__")
            finally:
                sys.argv = arguments
            return
        env = {**self.user.env, "JOB": self.job.id}
        if words[1:] and words[1] in OPERATOR:
            env["ATTUNE_DATA_DIR"] = str(self.user.data)
        if words[0] == "attune" and not any(SHELL.search(word) for word in words):  # here, too
            invoked = CliRunner().invoke(app, words[1:], f"{self.user.api_key}\n", env, catch_exceptions=False)
            code, printed = invoked.exit_code, invoked.output
        else:
            command = ["bash", "-euo", "pipefail", "-c", line]
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
            code, printed = done.returncode, done.stdout + done.stderr
        assert code == self.exit_codes.pop(line, 0), f"{line}\n{printed}"
        sys.stdout.write(f"$ {line}\n{printed}")

    def program(self, block: Block) -> None:
        program = block.text.replace("http://127.0.0.1:8000/v1", self.user.base_url).replace("sk-…", self.user.api_key)
        code = compile(program, block.place, "exec")
        if block.text.splitlines()[0] in NOT_RUN_PYTHON:
            return
        if "webhook" in self.names:
            body = webhook_signature.message("evt_1", "fine_tuning.job.succeeded", self.job.id, 1.0)
            secret = self.names["webhook"].signing_secret
            self.names |= {
                "secret": secret,
                "body": body,
                "headers": webhook_signature.headers("evt_1", body, [secret]),
            }
        refusal = next((code for part, code in REFUSED.items() if part in block.text), None)
        if refusal is None:
            exec(code, self.names)
            return
        with pytest.raises(openai.BadRequestError) as refused:
            exec(code, self.names)
        assert refused.value.code == refusal


def finished_job(user: User) -> Any:
    """Return a job that has succeeded, one for all pages."""
    for job in user.client.fine_tuning.jobs.list(limit=100):
        if job.status == "succeeded" and job.model == MODEL and job.to_dict()["user_provided_suffix"] == "docs":
            return job
    body = {"export": {"merged": True}, "training": {"validation_split": 0.2}}
    options: Any = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 8}}}
    return user.wait(user.create(suffix="docs", method=options, extra_body=body).id, "succeeded")


@pytest.mark.parametrize("notebook", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_cells_of_a_notebook_run(notebook: Path, user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(user.folder)
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") for cell in cells), "clear the outputs before a commit"
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), notebook.name, "exec"), names)
    assert names["job"].status == "succeeded"


def test_every_example_is_run_by_a_page_or_here() -> None:
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"\.\./examples/([\w.]+)", page))
    own = {"curve.py", "follow.py", "service.py", "base_model.py", "score.py", "wait.py"}  # parts of others
    assert {path.name for path in (ROOT / "examples").iterdir() if path.is_file()} == listed | own


def test_the_quickstart_in_bash(user: User) -> None:
    command: list[str | Path] = ["bash", ROOT / "examples" / "quickstart.sh", user.folder / "rows.jsonl", MODEL]
    done = subprocess.run(command, cwd=user.folder, env=user.env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "adapter_model.safetensors" in done.stdout
