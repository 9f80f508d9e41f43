"""A user of the live server: a folder with rows, a project and a key, and base models with the names in the pages."""

import json
import os
import shutil
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from api.services import base_models
from api.settings import Settings
from tests.conftest import opened
from tests.docs.blocks import ROOT, blocks
from tests.services import AttuneUp

EVALS = ROOT / "docs" / "evals.md"
MODEL = "smollm2-135m-instruct"
ROWS = 12
"""Rows of the shortened examples/rows.jsonl."""
LETTERS = 24
"""Letters of each message in it. The tokens of the tiny models are letters."""
CONTEXT = 1024
TEMPLATE = (
    "{% if tools %}<turn>tools\n{{ tools | tojson }}</turn>\n{% endif %}{% for message in messages %}"
    "<turn>{{ message['role'] }}\n{{ message['content'] or '' }}"
    "{% for call in message['tool_calls'] or [] %}{{ call['function'] | tojson }}{% endfor %}</turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)


@dataclass
class User:
    """Somebody who follows the pages, in a folder of their own."""

    folder: Path
    base_url: str
    api_key: str
    data: Path
    """The data folder of the server."""
    client: OpenAI = field(init=False)

    def __post_init__(self) -> None:
        self.client = OpenAI(base_url=self.base_url, api_key=self.api_key)

    @property
    def env(self) -> dict[str, str]:
        names = {"OPENAI_BASE_URL": self.base_url, "OPENAI_API_KEY": self.api_key}
        names["XDG_CONFIG_HOME"] = str(self.folder / "config")  # of `attune login`
        return os.environ | names | {"PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"}

    def create(self, **changes: Any) -> Any:
        with (self.folder / "rows.jsonl").open("rb") as rows:
            file = self.client.files.create(file=rows, purpose="fine-tune")
        return self.client.fine_tuning.jobs.create(model=MODEL, training_file=file.id, **changes)

    def wait(self, job_id: str, *statuses: str) -> Any:
        deadline = time.monotonic() + 120
        while (job := self.client.fine_tuning.jobs.retrieve(job_id)).status not in statuses:
            assert job.status != "failed", job.error
            assert time.monotonic() < deadline, job.status
            time.sleep(0.2)
        return job

    def cancel_all(self) -> None:
        """Cancel the jobs that a page leaves behind, which nobody waits for."""
        for job in self.client.fine_tuning.jobs.list(limit=100):
            if job.status in {"validating_files", "queued", "running", "paused"}:
                self.client.fine_tuning.jobs.cancel(job.id)


@pytest.fixture(scope="session")
def user(live_server: AttuneUp, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    folder = tmp_path_factory.mktemp("user")
    with opened(Settings(data_dir=live_server.data)) as context:
        for name, base in converted(tmp_path_factory.mktemp("bases")).items():
            base_models.register(context, name, base)
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    rows = [shortened(line) for line in (folder / "examples" / "rows.jsonl").read_text().splitlines()[:ROWS]]
    for path in (folder / "examples" / "rows.jsonl", folder / "rows.jsonl"):
        path.write_text("".join(rows))
    pair = {"prompt": "Is the shop open?", "chosen": "Yes, until six.", "rejected": "I do not know."}
    (folder / "pairs.jsonl").write_text(f"{json.dumps(pair)}\n" * ROWS)
    (folder / "capitals.json").write_text(next(block.text for block in blocks(EVALS) if block.language == "json"))
    item = {"question": "What is the capital of France?", "answer": "Paris"}
    (folder / "items.jsonl").write_text(json.dumps({"item": item}))
    key = live_server.run("keys", "create", "--project", "research", "--data-dir", str(live_server.data)).split()[-1]
    credentials = {"base_url": live_server.base_url, "api_key": key}
    (folder / "attune-data").mkdir()
    (folder / "attune-data" / "credentials.json").write_text(json.dumps(credentials))
    (folder / "key.txt").write_text(key)
    user = User(folder, **credentials, data=live_server.data)
    yield user
    user.cancel_all()


def shortened(line: str) -> str:
    """Return the row of chat with the beginnings of its messages."""
    messages = [{**message, "content": message["content"][:LETTERS]} for message in json.loads(line)["messages"]]
    return json.dumps({"messages": messages}) + "\n"


def converted(folder: Path) -> dict[str, Path]:
    """Make the base models that the pages name: tiny ones, with a context and a template for the pages' rows."""
    from tests.tiny_models import make_encoder, make_model  # noqa: PLC0415 (brings torch, which `make quick` leaves out)
    from worker.convert import convert  # noqa: PLC0415 (alike)

    language_model, encoder = make_model(folder / "llama", "llama"), make_encoder(folder / "bert")
    config = json.loads((language_model / "config.json").read_text())
    (language_model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": CONTEXT}))
    (language_model / "chat_template.jinja").write_text(TEMPLATE)
    for source in (language_model, encoder):
        convert(str(source), folder / f"{source.name}-base")
    return {
        MODEL: folder / "llama-base",
        "qwen": folder / "llama-base",
        "minilm": folder / "bert-base",
    }
