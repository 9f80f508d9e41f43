"""Runs prepare as the supervisor does: as a child, in a run folder."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MEASURED = """
import resource, subprocess, sys
code = subprocess.call([sys.executable, "-m", "worker.prepare", sys.argv[1]], close_fds=False)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
sys.exit(code)
"""
"""What a process has used counts from its parent's memory on: so prepare needs a small one to be measured."""


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
    read_fd, write_fd = os.pipe()
    with os.fdopen(read_fd, "rb") as pipe:
        try:
            child = subprocess.run(
                [sys.executable, "-c", MEASURED, str(folder)],
                check=False,
                pass_fds=[write_fd],
                env={**os.environ, "ATTUNE_REPORT_FD": str(write_fd)},
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=120,
            )
        finally:
            os.close(write_fd)
        assert child.returncode == 0, child.stderr
        progress = [json.loads(line) for line in pipe]
    return Outcome(folder, json.loads((folder / "report.json").read_bytes()), progress, int(child.stdout))
