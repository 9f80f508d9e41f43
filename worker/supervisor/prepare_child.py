"""The child that reads the users' rows: what it is asked, and what becomes of the job if it dies."""

import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from api.records import jobs
from api.records.base_models import BaseModelRow
from api.records.files import File
from api.records.jobs import Job
from api.spec.fields import AUTO
from api.spec.lifecycle import FailureReason
from api.spec.recipe import Recipe
from worker.supervisor.child import Child
from worker.supervisor.damage import named
from worker.supervisor.faults import FROM_OUTSIDE, AttemptFailed
from worker.supervisor.inputs import fetch_tokenizer
from worker.supervisor.lease import Heartbeat
from worker.supervisor.node import Node

log = structlog.get_logger(__name__)

WAIT_S = 1.0
CRASHES = {signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}
"""How native code ends a process over what it is given; other signals come from outside."""


@dataclass(frozen=True)
class Source:
    """One file of rows, and the key of the arrays that it becomes."""

    name: str
    """train or validation."""
    param: str
    file: File
    min_rows: int
    key: str


class Interrupted(Exception):
    """The worker was asked to stop."""


def run_child(
    node: Node,
    job: Job,
    recipe: Recipe,
    base: BaseModelRow,
    sources: list[Source],
    labels: dict[str, Any],
    folder: Path,
    beat: Heartbeat,
) -> dict[str, Any]:
    """Run prepare on these files. Returns its report of each. `labels`: what is decided of them (rows.compose)."""
    (folder / "input").mkdir()
    (folder / "data").mkdir(exist_ok=True)
    fetch_tokenizer(node, base, folder / "base")
    for source in sources:
        assert source.file.storage_key is not None, source.file.id
        with named(
            f"The file {source.file.id}",
            "Upload it again, and create the job with the new file.",
            code="damaged_file",
            param=source.param,
            reason=FailureReason.INVALID_FILE,
        ):
            node.context.storage.read_file(
                source.file.storage_key, folder / "input" / source.name, sha256=source.file.sha256
            )
    settings = node.context.settings
    request = {
        "job_id": job.id,
        "method": recipe.method.model_dump(mode="json"),
        "format": None if recipe.training.format == AUTO else recipe.training.format,
        "reasoning": recipe.training.reasoning,
        "context_window": base.facts["context_window"],
        "trained": labels,
        "files": [
            {
                "name": source.name,
                "path": f"input/{source.name}",
                "file_id": source.file.id,
                "param": source.param,
                "min_rows": source.min_rows,
            }
            for source in sources
        ],
        "limits": {"memory_bytes": settings.prepare_memory_bytes, "cpu_seconds": settings.prepare_cpu_seconds},
    }
    (folder / "prepare.json").write_text(json.dumps(request))
    wait_for(node, job, Child("worker.prepare", str(folder), log_file=folder / "log.txt"), beat)
    report = json.loads((folder / "report.json").read_bytes())
    if not report["ok"]:
        error = report["error"]
        raise AttemptFailed(
            FailureReason(error["reason"]), error["message"], code=error["code"], param=error.get("param")
        )
    return {each["name"]: each for each in report["files"]}


def wait_for(node: Node, job: Job, child: Child, beat: Heartbeat) -> None:
    """Until prepare has ended. Raises AttemptFailed, Stale, Interrupted."""
    last = None
    try:
        while True:
            if beat.lost.is_set():
                raise jobs.StaleFence(job.id)
            if node.stopping.is_set():
                raise Interrupted
            try:
                report = child.next_report(WAIT_S)
            except TimeoutError:
                if child.silent_s > node.context.settings.hung_s:
                    raise AttemptFailed(FailureReason.HUNG) from None
                continue
            if report is None:
                break
            last = report
        code = child.wait(timeout_s=30)
    finally:
        child.kill()
    if code != 0:
        log.error("prepare_died", job_id=job.id, code=code, log=child.log_tail())
        if last is not None and -code in CRASHES:
            raise _crashed_on(last["file"], last["rows"])
        if -code in FROM_OUTSIDE:
            raise AttemptFailed(FailureReason.WORKER_LOST)
        raise AttemptFailed(FailureReason.INTERNAL, died=True)


def _crashed_on(file: str, rows: int) -> AttemptFailed:
    """The same rows would crash the next attempt: there is none."""
    kind = "validation" if file == "validation" else "training"
    return AttemptFailed(
        FailureReason.INVALID_FILE,
        f"The job failed due to an invalid {kind} file. The process that reads it crashed, after about {rows:,} rows. "
        "Look there for a row that is unlike the others, or is damaged.",
        code=f"invalid_{kind}_file",
        param=f"{kind}_file",
    )
