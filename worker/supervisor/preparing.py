"""One attempt at preparing a job: rows to arrays, and every "auto" that depends on them to a number."""

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from api.lifecycle import FailureReason, JobStatus, Stage
from api.recipe import MIN_EXAMPLES, Recipe, ResolvedRecipe, resolve, resolve_max_length
from api.records import arrays, events, files, jobs, queue, workers
from api.records.arrays import Arrays
from api.records.base_models import BaseModel
from api.records.files import File
from api.records.jobs import Job
from api.records.queue import Claim
from worker.arrays import load_rows, split
from worker.supervisor.child import Child
from worker.supervisor.faults import AttemptFailed
from worker.supervisor.inputs import base_model, fetch_tokenizer
from worker.supervisor.lease import Heartbeat
from worker.supervisor.node import Node
from worker.supervisor.settling import Settled, settle

log = structlog.get_logger(__name__)

CODE_VERSION = 2
"""Raise it when the same rows give other arrays: it is a part of their key."""
WAIT_S = 1.0


@dataclass(frozen=True)
class Source:
    """One file of rows, and the key of the arrays that it becomes."""

    name: str
    """train or validation."""
    param: str
    file: File
    min_rows: int
    key: str


def prepare(node: Node, claim: Claim, job: Job, folder: Path, beat: Heartbeat) -> None:
    """Raises AttemptFailed, Stale, StorageUnavailable."""
    recipe, base = Recipe.model_validate(job.recipe), base_model(node, job)
    sources = _sources(node, job, recipe, base)
    prepared = {source.name: found for source in sources if (found := _known(node, source))}
    missing = [source for source in sources if source.name not in prepared]
    if missing:
        reports = _run_child(node, job, recipe, base, missing, folder, beat)
        prepared |= {source.name: _store(node, job, source, folder, reports[source.name]) for source in missing}
    for name, found in prepared.items():
        path = folder / "data" / f"{name}.safetensors"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            node.context.storage.read_file(found.storage_key, path, sha256=found.sha256)
    settled = settle(node, job, recipe, base, prepared["train"])
    resolved, notes = _resolve(job, recipe, base, prepared, settled, folder)
    _finish(node, claim, job, base, resolved, prepared, notes)


def _sources(node: Node, job: Job, recipe: Recipe, base: BaseModel) -> list[Source]:
    wanted = [("train", "training_file", job.training_file, MIN_EXAMPLES)]
    if job.validation_file is not None:
        wanted.append(("validation", "validation_file", job.validation_file, 1))
    sources = []
    with node.context.database.read() as session:
        for name, param, file_id, min_rows in wanted:
            file = files.get(session, job.project_id, file_id)
            if file is None:
                raise AttemptFailed(
                    FailureReason.INVALID_FILE, f"No such File object: {file_id}", code="file_not_found", param=param
                )
            sources.append(Source(name, param, file, min_rows, _key(job, file, recipe, base)))
    return sources


def _key(job: Job, file: File, recipe: Recipe, base: BaseModel) -> str:
    """Of all that decides the arrays' content. The project is a part of it, so nothing crosses projects."""
    tokenizer = [[each["name"], each["sha256"]] for each in base.artifacts if not each["name"].endswith(".safetensors")]
    parts = [CODE_VERSION, job.project_id, file.sha256, recipe.method.type, recipe.method.chosen(), sorted(tokenizer)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _known(node: Node, source: Source) -> Arrays | None:
    with node.context.database.read() as session:
        found = arrays.get(session, source.key)
    if found is None or found.report["rows"] < source.min_rows:
        return None  # too few rows: prepare says so in the words for this file
    if not node.context.storage.exists(found.storage_key):
        return None  # an operator made room
    return found


def _run_child(
    node: Node, job: Job, recipe: Recipe, base: BaseModel, sources: list[Source], folder: Path, beat: Heartbeat
) -> dict[str, Any]:
    """Run prepare on these files. Returns its report of each."""
    (folder / "input").mkdir()
    (folder / "data").mkdir()
    fetch_tokenizer(node, base, folder / "base")
    for source in sources:
        assert source.file.storage_key is not None, source.file.id
        node.context.storage.read_file(
            source.file.storage_key, folder / "input" / source.name, sha256=source.file.sha256
        )
    settings = node.context.settings
    request = {
        "job_id": job.id,
        "method": recipe.method.model_dump(mode="json"),
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
    _wait_for(node, job, Child("worker.prepare", str(folder), log_file=folder / "log.txt"), beat)
    report = json.loads((folder / "report.json").read_bytes())
    if not report["ok"]:
        error = report["error"]
        raise AttemptFailed(
            FailureReason(error["reason"]), error["message"], code=error["code"], param=error.get("param")
        )
    return {each["name"]: each for each in report["files"]}


def _wait_for(node: Node, job: Job, child: Child, beat: Heartbeat) -> None:
    heard_at = time.monotonic()
    try:
        while True:
            if beat.lost.is_set():
                raise jobs.Stale(job.id)
            if node.stopping.is_set():
                raise Interrupted
            try:
                if child.next_report(WAIT_S) is None:
                    break
            except TimeoutError:
                if time.monotonic() - heard_at > node.context.settings.hung_s:
                    raise AttemptFailed(FailureReason.HUNG) from None
                continue
            heard_at = time.monotonic()
        code = child.wait(timeout_s=30)
    finally:
        child.kill()
    if code != 0:
        log.error("prepare_died", job_id=job.id, code=code, log=child.log_tail())
        raise AttemptFailed(FailureReason.INTERNAL, died=True)


class Interrupted(Exception):
    """The worker was asked to stop."""


def _store(node: Node, job: Job, source: Source, folder: Path, report: dict[str, Any]) -> Arrays:
    stored = node.context.storage.write_file(
        f"arrays/{job.project_id}/{source.key}.safetensors", folder / "data" / f"{source.name}.safetensors"
    )
    with node.context.database.write() as session:
        return arrays.put(
            session,
            key=source.key,
            project_id=job.project_id,
            bytes_total=stored.bytes,
            sha256=stored.sha256,
            report=report,
        )


def _resolve(
    job: Job, recipe: Recipe, base: BaseModel, prepared: dict[str, Arrays], settled: Settled, folder: Path
) -> tuple[ResolvedRecipe, list[str]]:
    """The numbers in place of each "auto", and what the user should know of the cut."""
    max_length = resolve_max_length(
        recipe,
        longest_row=max(found.report["longest_row"] for found in prepared.values()),
        context_window=base.facts["context_window"],
    )
    notes = []
    counts = {"validation": 0}
    for name in prepared:
        rows, dropped, truncated = load_rows(folder / "data" / f"{name}.safetensors").truncate(max_length)
        if name == "train" and recipe.training.validation_split:
            rows, held_out = split(rows, recipe.training.validation_split, job.seed)
            counts["validation"] = len(held_out)
        counts[name] = len(rows)
        if truncated:
            notes.append(f"{truncated} of the {name} rows are longer than {max_length} tokens and are cut at the end")
        if dropped:
            notes.append(f"{dropped} of the {name} rows keep no token to learn from after the cut and are left out")
    if counts["train"] == 0:
        raise AttemptFailed(
            FailureReason.INVALID_FILE,
            f"No row is left to train on: every one, cut to {max_length} tokens, holds no token to learn from. "
            "Raise training.max_length.",
            param="training.max_length",
        )
    resolved = resolve(
        recipe,
        job_id=job.id,
        seed=job.seed,
        max_length=max_length,
        train_rows=counts["train"],
        validation_rows=counts["validation"],
        **settled,
    )
    return resolved, notes


def _finish(
    node: Node,
    claim: Claim,
    job: Job,
    base: BaseModel,
    resolved: ResolvedRecipe,
    prepared: dict[str, Arrays],
    notes: list[str],
) -> None:
    train = prepared["train"].report
    tokens = train["tokens"] / max(1, train["rows"]) * resolved.batch_size * resolved.total_steps
    recipe = Recipe.model_validate(job.recipe)
    with node.context.database.write() as session:
        available = workers.gpus_anywhere(session)
        gpus = min(1, available) if recipe.resources.gpus == "auto" else recipe.resources.gpus
        if gpus > available:
            raise AttemptFailed(
                FailureReason.INVALID_RECIPE, "No worker of this server has a GPU", param="resources.gpus"
            )
        for note in notes:
            events.say(session, job.id, note, level="warn")
        for name, found in prepared.items():
            for finding in found.report["findings"][:5]:
                events.say(session, job.id, f"{name} file, line {finding['line']}: {finding['message']}", level="warn")
        jobs.move(
            session,
            job.id,
            JobStatus.QUEUED,
            message="Files validated, moving job to queued state",
            fence=claim.fence,
            resolved=resolved.model_dump(mode="json"),
            arrays={name: found.key for name, found in prepared.items()},
            work=6.0 * base.facts["parameters"] * tokens,
            gpus=gpus,
            rung_at=None,
        )
        queue.end_attempt(session, claim, "prepared")
    node.context.doorbell.ring(Stage.TRAIN, job.id)
