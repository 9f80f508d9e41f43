"""Runs prepare as the supervisor does: as a child, in a run folder."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.worker.children import run_child

Content = bytes | Callable[[Path], object]
"""Of a file: its bytes, or what writes it."""


@dataclass(frozen=True)
class Outcome:
    folder: Path
    report: dict[str, Any]
    progress: list[dict[str, Any]]
    peak_bytes: int
    """Resident memory, of prepare and of what it started."""

    @property
    def message(self) -> str:
        return str(self.report["error"]["message"])

    @property
    def code(self) -> str:
        return str(self.report["error"]["code"])

    @property
    def findings(self) -> list[dict[str, Any]]:
        findings: list[dict[str, Any]] = self.report["files"][-1]["findings"]
        return findings


def jsonl(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def prepare(
    folder: Path,
    base: Path,
    train: Content,
    validation: bytes | None = None,
    *,
    min_rows: int = 1,
    method: dict[str, Any] | None = None,
    format: str | None = None,
    context_window: int | None = None,
    reasoning: str = "auto",
    **limits: int,
) -> Outcome:
    (folder / "input").mkdir(parents=True)
    (folder / "base").symlink_to(base)
    files = []
    for name, param, content in (("train", "training_file", train), ("validation", "validation_file", validation)):
        if content is not None:
            path = folder / "input" / name
            path.write_bytes(content) if isinstance(content, bytes) else content(path)
            asked = {"name": name, "path": f"input/{name}", "file_id": "file-abc", "param": param}
            files.append({**asked, "min_rows": min_rows if name == "train" else 1})
    request = {
        "job_id": "ftjob-1",
        "method": method or {"type": "supervised"},
        "files": files,
        "format": format,
        "reasoning": reasoning,
        "context_window": context_window,
        "limits": limits,
    }
    (folder / "prepare.json").write_text(json.dumps(request))
    return run(folder)


def run(folder: Path) -> Outcome:
    reports = folder / "reports.jsonl"
    ended = run_child("worker.prepare", folder, reports)
    assert ended.code == 0
    progress = [json.loads(line) for line in reports.read_bytes().splitlines()]
    return Outcome(folder, json.loads((folder / "report.json").read_bytes()), progress, ended.peak_bytes)
