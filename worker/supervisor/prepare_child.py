"""The child process that reads users' rows: its request, its report, and what its death means for the job."""

import json
import signal
from dataclasses import dataclass
from typing import Any, TypeAlias

import structlog

from api.records import jobs
from api.records.files import File
from api.spec.fields import AUTO
from api.spec.lifecycle import FailureReason
from worker.shared.cgroup import out_of_memory_kills
from worker.shared.reports import ProgressReport
from worker.supervisor.attempt import AttemptContext
from worker.supervisor.child import Child
from worker.supervisor.damage import raise_on_damage
from worker.supervisor.faults import SIGNALS_FROM_OUTSIDE, AttemptFailed, Interrupted
from worker.supervisor.inputs import fetch_tokenizer

log = structlog.get_logger(__name__)

WAIT_S = 1.0
STOPPING_S = 2.0
"""Seconds within which a worker notices SIGTERM, which a service manager may send to its children at the same time."""
CRASHES = {signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}
"""Signals that end a process if native code crashes on its input."""
KILLED_FOR_MEMORY = (
    "The worker's memory was full, and its kernel ended the process that reads the job's files. Split the file into "
    "smaller ones, or ask the operator for a worker with more memory."
)


FileReport: TypeAlias = dict[str, Any]
"""The report on one prepared file (worker.rows.prepare_file.FileReport). It is stored with the file's arrays."""
RequiredLabels: TypeAlias = dict[str, object]
"""The labels that rows must have, as JSON (worker.rows.row_builder.LabelSpec). Empty: any labels."""


@dataclass(frozen=True)
class Source:
    """One file of rows, and the key under which its arrays are stored."""

    name: str
    """train or validation."""
    param: str
    file: File
    min_rows: int
    key: str
    rendered_at: float | None = None
    """When the rows were rendered, in Unix time, if their arrays were stored before. Chat templates may write the
    date, and arrays that are made again must be equal."""


def run_prepare(attempt: AttemptContext, sources: list[Source], labels: RequiredLabels) -> dict[str, FileReport]:
    """Convert these files to arrays in a child process. Return each file's report by its source's name. `labels`: the
    labels that rows must have. Raises AttemptFailed, StaleFence, Interrupted."""
    folder = attempt.folder
    _fetch_inputs(attempt, sources)
    (folder / "prepare.json").write_text(json.dumps(_request(attempt, sources, labels)))
    wait_for_child(attempt, attempt.node.start_child("worker.prepare", folder))
    report = json.loads((folder / "report.json").read_bytes())
    if not report["ok"]:
        error = report["error"]
        raise AttemptFailed(
            FailureReason(error["reason"]), error["message"], code=error["code"], param=error.get("param")
        )
    return {file["name"]: file for file in report["files"]}


def _fetch_inputs(attempt: AttemptContext, sources: list[Source]) -> None:
    folder = attempt.folder
    (folder / "input").mkdir()
    (folder / "data").mkdir(exist_ok=True)
    fetch_tokenizer(attempt.node, attempt.base, folder / "base")
    for source in sources:
        assert source.file.storage_key is not None, source.file.id
        with raise_on_damage(
            f"The file {source.file.id}",
            "Upload it again, and create the job with the new file.",
            code="damaged_file",
            param=source.param,
            reason=FailureReason.INVALID_FILE,
        ):
            attempt.node.storage.read_file(
                source.file.storage_key, folder / "input" / source.name, sha256=source.file.sha256
            )


def _request(attempt: AttemptContext, sources: list[Source], labels: RequiredLabels) -> dict[str, object]:
    """Return the content of prepare.json (worker.prepare.Request)."""
    recipe, settings = attempt.recipe, attempt.node.context.settings
    return {
        "job_id": attempt.job.id,
        "method": recipe.method.model_dump(mode="json"),
        "format": None if recipe.training.format == AUTO else recipe.training.format,
        "reasoning": recipe.training.reasoning,
        "context_window": attempt.base.facts["context_window"],
        "rendered_at": next((source.rendered_at for source in sources if source.rendered_at is not None), None),
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


def wait_for_child(attempt: AttemptContext, child: Child) -> None:
    """Wait until the child has ended. Raise AttemptFailed if it failed or hangs, StaleFence if the attempt no longer
    owns the job, Interrupted if the worker shuts down."""
    last_progress, kills_before = None, out_of_memory_kills()
    try:
        while True:
            if attempt.beat.lost.is_set():
                raise jobs.StaleFence(attempt.job.id)
            if attempt.node.stopping.is_set():
                raise Interrupted
            try:
                report = child.next_report(WAIT_S)
            except TimeoutError:
                if child.silent_s > attempt.node.context.settings.hung_s:
                    raise AttemptFailed(FailureReason.HUNG) from None
                continue
            if report is None:
                break
            if isinstance(report, ProgressReport):
                last_progress = report
        code = child.wait(timeout_s=30)
    finally:
        child.kill()
    if code != 0:
        log.error("prepare_died", job_id=attempt.job.id, code=code, log=child.log_tail())
        raise _end_of(attempt, code, last_progress, out_of_memory=out_of_memory_kills() > kills_before)


def _end_of(
    attempt: AttemptContext, code: int, progress: ProgressReport | None, *, out_of_memory: bool
) -> AttemptFailed | Interrupted:
    """Return the error for a child that ended with this exit code, after its last report `progress`."""
    if progress is not None and -code in CRASHES:
        return _crashed_on(progress)
    if code == -signal.SIGTERM and attempt.node.stopping.wait(STOPPING_S):
        return Interrupted()
    if code == -signal.SIGKILL and out_of_memory:
        return AttemptFailed(FailureReason.OUT_OF_MEMORY, KILLED_FOR_MEMORY)
    if -code in SIGNALS_FROM_OUTSIDE:
        return AttemptFailed(FailureReason.WORKER_LOST)
    return AttemptFailed(FailureReason.INTERNAL, died_at=0)


def _crashed_on(progress: ProgressReport) -> AttemptFailed:
    """Return the failure of a job whose rows crash the child. It is not retried, because the rows would crash the next
    attempt, too."""
    kind = "validation" if progress.file == "validation" else "training"
    return AttemptFailed(
        FailureReason.INVALID_FILE,
        f"The job failed due to an invalid {kind} file. The process that reads it crashed after about "
        f"{progress.rows:,} rows. Look there for a row that is damaged or unlike the others.",
        code=f"invalid_{kind}_file",
        param=f"{kind}_file",
    )
