"""What an attempt hands over: states to resume from, checkpoints to download, and at the end the model.

Objects are stored first and named in the database last, under the fence: what a stale attempt stored is never seen.
"""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from api.infra.artifacts import GGUF, MERGED, tar_size, trained_artifacts
from api.infra.storage import Corrupt, Storage
from api.records import events, jobs, models, queue, trackings
from api.records.base import db_now
from api.records.files import File
from api.records.jobs import Job
from api.records.models import Checkpoint, Model
from api.records.queue import Claim
from api.records.trackings import HUB
from api.spec.ids import new_id
from api.spec.lifecycle import JobStatus
from api.spec.manifest import NAME as MANIFEST
from worker.supervisor.node import Node

KEPT_CHECKPOINTS = 3
"""The newest, and the best one besides."""

RESULT_COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_accuracy": "train_accuracy",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_accuracy",
}
"""OpenAI's columns, and the metric that fills each."""
REWARD_COLUMNS = ("train_reward", "valid_reward")
"""Ours beside them, of methods that have a reward."""
ACCURACIES = ("mean_token_accuracy", "accuracy", "rewards_accuracy")
"""What a method calls the share of what it got right: tokens, labels, or preferences."""
CHECKPOINT_METRICS = ("step", "train_", "valid_", "full_valid_")
"""What their names begin with; numbers only, as OpenAI's clients have it."""


def store_folder(storage: Storage, folder: Path, prefix: str) -> list[dict[str, Any]]:
    """Store what a finished folder's manifest lists, and the manifest last; likewise the merged model and the GGUF file
    in it. Returns the artifacts as records keep them.

    Raises FileNotFoundError if the folder went away meanwhile, Corrupt if a file is not the one that was listed.
    """
    artifacts = []
    for part in [part for part in (MERGED, GGUF) if (folder / part).is_dir()] + [""]:
        files = json.loads((folder / part / MANIFEST).read_bytes())["files"]
        listed = {f"{part}{entry['name']}": entry["sha256"] for entry in files}
        for name, sha256 in [*sorted(listed.items()), (f"{part}{MANIFEST}", None)]:
            stored = storage.write_file(f"{prefix}/{name}", folder / name)
            if sha256 not in (None, stored.sha256):
                raise Corrupt(f"{name} is not the file that its manifest lists")
            artifacts.append({"name": name, "bytes": stored.bytes, "sha256": stored.sha256, "key": f"{prefix}/{name}"})
    return artifacts


def store_state(node: Node, claim: Claim, job: Job, step: int, folder: Path) -> None:
    """Store a state, then move the job's pointer to it. The one before stays, should this one be damaged."""
    prefix = f"states/{job.id}/{claim.fence}/{step:06d}"
    store_folder(node.context.storage, folder, prefix)
    with node.context.database.write() as session:
        unused = jobs.move_state(session, job.id, claim.fence, {"step": step, "prefix": prefix})
    if unused is not None:
        node.context.storage.delete_prefix(unused)


def store_checkpoint(node: Node, claim: Claim, job: Job, report: dict[str, Any], folder: Path) -> None:
    step = report["step"]
    with node.context.database.read() as session:
        if any(known.step == step for known in models.checkpoints_of(session, job.id)):
            return  # an attempt before this one stored it
    artifacts = store_folder(node.context.storage, folder, f"checkpoints/{job.id}/{claim.fence}/{step:06d}")
    metrics = {
        name: value
        for name, value in report["metrics"].items()
        if name.startswith(CHECKPOINT_METRICS) and isinstance(value, (int, float))
    }
    with node.context.database.write() as session:
        jobs.lock_for_attempt(session, job.id, claim.fence)
        session.add(
            Checkpoint(
                id=new_id("ftckpt_"),
                project_id=job.project_id,
                job_id=job.id,
                model_id=f"{job.model_id}:ckpt-step-{step}",
                step=step,
                metrics=metrics,
                artifacts=artifacts,
                created_at=db_now(),
            )
        )
        session.flush()
        events.add_event(session, job.id, f"Checkpoint created at step {step}: {job.model_id}:ckpt-step-{step}")
        surplus = [
            checkpoint
            for checkpoint in _surplus(models.checkpoints_of(session, job.id))
            if not models.referenced_by(session, checkpoint.model_id)
        ]
        models.remove_checkpoints(session, surplus)
    node.context.storage.delete([artifact["key"] for gone in surplus for artifact in gone.artifacts])


def _surplus(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """All but the newest three and the one with the lowest validation loss."""

    def loss(checkpoint: Checkpoint) -> float:
        metrics = checkpoint.metrics
        found = metrics.get("full_valid_loss", metrics.get("valid_loss"))
        return float("inf") if found is None else float(found)

    best = min(checkpoints, key=loss) if checkpoints else None
    return [checkpoint for checkpoint in checkpoints[:-KEPT_CHECKPOINTS] if checkpoint is not best]


def publish(node: Node, claim: Claim, job: Job, report: dict[str, Any], folder: Path) -> None:
    """Store the model, then in one transaction: the model, its files, and the job's success."""
    artifacts = store_folder(node.context.storage, folder, f"models/{job.id}/{claim.fence}")
    results, archive = new_id("file-"), new_id("file-")
    results_key = f"files/{job.project_id}/{results}"
    with node.context.database.read() as session:
        table = results_csv(events.metrics_of(session, job.id))
    stored = node.context.storage.write_bytes(results_key, table)
    shared = {"project_id": job.project_id, "purpose": "fine-tune-results", "created_at": db_now()}
    with node.context.database.write() as session:
        session.add(
            Model(
                id=job.model_id,
                project_id=job.project_id,
                job_id=job.id,
                base_model=job.base_model,
                artifacts=artifacts,
                created_at=db_now(),
            )
        )
        session.add(
            File(
                id=results,
                filename="step_metrics.csv",
                bytes=stored.bytes,
                sha256=stored.sha256,
                storage_key=results_key,
                **shared,
            )
        )
        session.add(
            File(
                id=archive,
                filename=f"{job.id}.tar",
                bytes=tar_size(trained_artifacts(artifacts)),
                model_id=job.model_id,
                **shared,
            )
        )
        session.flush()
        if (hub := (job.recipe.get("export") or {}).get("hub")) is not None:
            trackings.plan(session, job.id, HUB, options=hub, at_once=True)
        events.add_event(session, job.id, f"New fine-tuned model created: {job.model_id}")
        if (told := best_step(job, report)) is not None:
            events.add_event(session, job.id, told)
        estimate = jobs.lock_for_attempt(session, job.id, claim.fence).estimate
        jobs.transition(
            session,
            job.id,
            JobStatus.SUCCEEDED,
            message="The job has successfully completed",
            fence=claim.fence,
            fine_tuned_model=job.model_id,
            result_files=[results, archive],
            trained_tokens=report["trained_tokens"],
            evaluation=report.get("evaluation"),
            estimate=None if estimate is None else {**estimate, "actual": report.get("took")},
        )
        queue.end_attempt(session, claim, "succeeded")


def best_step(job: Job, report: dict[str, Any]) -> str | None:
    """What is to be known of a model that is not the last step's."""
    best, last = report.get("best_step"), report["step"]
    if best in (None, last) or not (job.resolved or {}).get("keep_best"):
        return None
    return (
        f"Its weights are those of step {best} of {last}, which had the lowest validation loss; "
        "with training.keep_best false, a job publishes those of its last step"
    )


def results_csv(metrics: Sequence[dict[str, Any]]) -> bytes:
    """OpenAI's table: a row for each step, numbers only, blank where a step has none."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    rewards = {name: name for name in REWARD_COLUMNS if any(name in row for row in metrics)}
    columns = RESULT_COLUMNS | rewards
    table.writerow(columns)
    for row in metrics:
        values = (_metric(row, metric) for metric in columns.values())
        table.writerow(["" if value is None else value for value in values])
    return text.getvalue().encode()


def _metric(row: dict[str, Any], name: str) -> Any:
    """Of a step; an accuracy by whatever name the method has for it."""
    part, _, kind = name.partition("_")
    if kind != "accuracy":
        return row.get(name)
    return next((row[f"{part}_{each}"] for each in ACCURACIES if f"{part}_{each}" in row), None)
