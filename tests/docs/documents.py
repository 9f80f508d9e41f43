"""Uses the blocks of data in the pages as their reader would: a body is sent, a settings file is loaded."""

import configparser
import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from api.schemas.jobs import Queue
from api.settings import load_settings
from api.spec.catalog import method_of
from api.spec.formats import FORMATS, Row, RowError, detect
from tests.docs.blocks import ROOT, Block, blocks
from tests.docs.command_lines import require_parsed
from tests.docs.conftest import MODEL, ROWS, User

FORMATS_PAGE = ROOT / "docs" / "rows.md"
REFUSED: dict[str, dict[str, Any]] = {
    "invalid_value": {"training": {"max_length": 4}},
    "file_not_found": {"training_file": "file-abc"},
}
"""For each code of an error that a page shows: what a job has that is refused so."""


class Documents:
    """The data of one page, in its order: rows belong to the bodies that follow them."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.rows = [value for block in blocks(FORMATS_PAGE) if block.language == "json" for value in values(block)]

    def use(self, block: Block) -> None:
        """Send the objects of the block to the server: one, or one on each line. Fail if it refuses one."""
        for value in values(block):
            match value:
                case {"stages": stages}:
                    for stage in stages:
                        stage["training_file"] = self.upload(stage["method"]["type"])
                    pipeline = self.post("/fine_tuning/pipelines", value)
                    self.post(f"/fine_tuning/pipelines/{pipeline['id']}/cancel", {})
                case {"model": _, "training_file": _}:
                    self.estimate(value)
                case {"data_source_config": _, "testing_criteria": _}:
                    self.user.client.evals.delete(self.post("/evals", value)["id"])
                case {"error": {"code": code}}:
                    assert self.refusal(code) == value["error"]
                case {"position": _, "expected_start": _}:  # an answer, which depends on the moment
                    Queue.model_validate(value, extra="forbid")
                case {"type": _, "name": _, "input": _}:
                    self.post("/fine_tuning/alpha/graders/validate", {"grader": value})
                case {"type": _}:
                    self.estimate({"model": MODEL, "technique": value})
                case _:
                    assert any(parses(name, value) for name in FORMATS), value
                    self.rows.append(value)

    def post(self, path: str, body: Any) -> Any:
        return self.user.client.post(path, body=body, cast_to=object)

    def estimate(self, recipe: dict[str, Any]) -> None:
        """Estimate a job on the page's newest rows that its method can train on."""
        method = recipe.get("method", {"type": "supervised"})["type"]
        estimate = self.post("/fine_tuning/estimates", {**recipe, "training_file": self.upload(method)})
        # `qlora` on a CPU needs layers of other sizes than those of the tiny model.
        assert all("a multiple of 64" in reason["message"] for reason in estimate["reasons"]), estimate["reasons"]

    def upload(self, method_type: str) -> str:
        """Upload the newest rows in a format that the method accepts. Return the file's id."""
        method = method_of(method_type)
        assert method is not None, method_type
        accepted = {name: [row for row in self.rows if parses(name, row)] for name in method.formats}
        newest = max(filter(None, accepted.values()), key=lambda rows: self.rows.index(rows[-1]))
        content = "".join(f"{json.dumps(row)}\n" for row in newest) * ROWS
        return self.user.client.files.create(file=("rows.jsonl", content.encode()), purpose="fine-tune").id

    def refusal(self, code: str) -> object:
        """Return the error of a request that is refused with the code."""
        body = {"model": MODEL, "training_file": self.upload("supervised"), **REFUSED[code]}
        with pytest.raises(openai.APIStatusError) as refused:
            self.post("/fine_tuning/jobs", body)
        return refused.value.body


def values(block: Block) -> list[Any]:
    text = block.text.strip()
    return [json.loads(line) for line in (text.splitlines() if text.splitlines()[0].endswith("}") else [text])]


def parses(format_name: str, row: Row) -> bool:
    """Return whether a method that accepts only this format can read the row."""
    try:
        return detect(row, {format_name}) == format_name and FORMATS[format_name].parse(row) is not None
    except RowError:
        return False


def load_toml(block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load the block as the file of ATTUNE_CONFIG."""
    path = folder / "attune.toml"
    path.write_text(block.text, encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setenv("ATTUNE_CONFIG", str(path))
        settings = load_settings()
    assert settings.model_fields_set >= tomllib.loads(block.text).keys()


def read_ini(block: Block, folder: Path) -> None:
    """Read a unit of systemd, or its file of variables, which a shell reads too."""
    if block.text.startswith("["):
        unit = configparser.ConfigParser(strict=True)
        unit.read_string(block.text)
        require_parsed(unit["Service"]["ExecStart"])
        assert f". {unit['Service']['EnvironmentFile']};" in block.page.read_text(encoding="utf-8")
        return
    path = folder / "attune.env"
    path.write_text(block.text, encoding="utf-8")
    assigned = dict(line.split("=", 1) for line in block.text.splitlines() if re.match(r"[^#;].*=", line))
    command = f"set -a; . {path}; set +a; env -0"
    printed = subprocess.run(["bash", "-euc", command], env={}, capture_output=True, check=True, text=True).stdout
    in_shell = dict(line.split("=", 1) for line in printed.split("\0") if line)
    assert assigned.items() <= in_shell.items(), "systemd has no comments behind values"
    load_settings(**{name.removeprefix("ATTUNE_").lower(): assigned[name] for name in assigned if "ATTUNE_" in name})


def read_yaml(block: Block) -> None:
    """Check that the block configures a scrape by Prometheus, which is not installed here."""
    for job in yaml.safe_load(block.text)["scrape_configs"]:
        assert job.keys() >= {"job_name", "authorization", "static_configs"}
