"""The outputs of an attempt: states to resume from, checkpoints to download, and at the end the model.

Objects are stored first. The rows in the database that refer to them are written afterwards, and only if the attempt
still owns the job (its fence, docs/internals/queue.md). So objects of an attempt that lost the job are never visible.
"""

import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile

import msgspec
from sqlalchemy.orm import Session

from api.infra import signatures
from api.infra.artifacts import GGUF, MERGED, tar_size, trained_artifacts
from api.infra.storage import ObjectCorrupt, Storage, StoredObject
from api.infra.unused_objects import delete_unused
from api.records import eval_runs, evals, events, job_queue, jobs, models, signing_keys, trackings
from api.records.base import db_now
from api.records.database import Database
from api.records.files import RESULTS, File
from api.records.jobs import Job
from api.records.models import Checkpoint, Model
from api.records.trackings import HUB
from api.spec.artifacts import Artifact, SavedState
from api.spec.evals.job_eval import JobEval
from api.spec.fields import JsonObject
from api.spec.ids import checkpoint_id, new_id
from api.spec.lifecycle import JobStatus
from api.spec.manifest import NAME as MANIFEST
from api.spec.manifest import SIGNATURE
from worker.shared.kept_checkpoints import KEPT_CHECKPOINTS
from worker.shared.reports import CheckpointReport, DoneReport, Metrics
from worker.supervisor.attempt import AttemptContext
from worker.supervisor.estimates import Measured
from worker.supervisor.results_table import write_results
from worker.supervisor.retention import remove_unnamed

CHECKPOINT_METRICS = ("step", "train_", "valid_", "full_valid_")
"""A checkpoint shows the metrics whose names begin with one of these and whose values are numbers, as OpenAI's clients
expect."""


def store_folder(
    storage: Storage, folder: Path, prefix: str, sign: Callable[[bytes], bytes] | None = None
) -> list[Artifact]:
    """Store the files that a finished folder's manifest lists, and the manifest last. Return them as artifacts.

    If the folder contains a merged model or a GGUF file, each with a manifest of its own, they are stored likewise.
    `sign` returns a manifest's signature, which is stored beside the manifest. Raises FileNotFoundError if the folder
    is deleted meanwhile, ObjectCorrupt if a file differs from the manifest.
    """
    artifacts = []

    def add(name: str, stored: StoredObject) -> None:
        artifacts.append(Artifact(name=name, bytes=stored.bytes, sha256=stored.sha256, key=f"{prefix}/{name}"))

    for part in [part for part in (MERGED, GGUF) if (folder / part).is_dir()] + [""]:
        manifest = (folder / part / MANIFEST).read_bytes()
        listed = {f"{part}{entry['name']}": entry["sha256"] for entry in json.loads(manifest)["files"]}
        for name, sha256 in sorted(listed.items()):
            stored = storage.write_file(f"{prefix}/{name}", folder / name)
            if sha256 != stored.sha256:
                raise ObjectCorrupt(f"{name} is not the file that its manifest lists")
            add(name, stored)
        written = {MANIFEST: manifest} if sign is None else {SIGNATURE: sign(manifest), MANIFEST: manifest}
        for name, content in written.items():
            add(f"{part}{name}", storage.write_bytes(f"{prefix}/{part}{name}", content))
    return artifacts


def _store_published(attempt: AttemptContext, folder: Path, prefix: str) -> list[Artifact]:
    """Store a model or a checkpoint, and sign its manifests. Raises ObjectCorrupt if a manifest is of another job."""

    def sign(manifest: bytes) -> bytes:
        if json.loads(manifest)["job"] != attempt.job.id:
            raise ObjectCorrupt(f"{MANIFEST} is not that of {attempt.job.id}")
        with attempt.node.context.database.write() as session:
            key = signing_keys.current(session, signatures.new_key_pair)
        assert key.private_key is not None, f"{key.id} is retired"
        return signatures.sign(manifest, key.id, key.private_key)

    return store_folder(attempt.node.context.storage, folder, prefix, sign)


def store_state(attempt: AttemptContext, step: int, folder: Path) -> None:
    """Store a state, then make it the job's newest. The previous state is kept, in case this one is damaged."""
    job_id, fence, context = attempt.job.id, attempt.claim.fence, attempt.node.context
    # An attempt may store several states of step 0, and a later one must not be written over an earlier one.
    prefix = f"states/{job_id}/{fence}/{step:06d}" + (f"-{secrets.token_hex(4)}" if step == 0 else "")
    store_folder(context.storage, folder, prefix)
    with context.database.write() as session:
        unused = jobs.advance_state(session, job_id, fence, SavedState(step=step, prefix=prefix))
    if unused is not None:
        delete_unused(partial(context.storage.delete_prefix, unused))


def store_checkpoint(attempt: AttemptContext, report: CheckpointReport, folder: Path) -> None:
    """Store a checkpoint, unless an earlier attempt stored it. Delete the surplus checkpoints (`_surplus`) that no
    job, adapter or permission names."""
    job, fence, context, step = attempt.job, attempt.claim.fence, attempt.node.context, report.step
    with context.database.read() as session:
        if any(known.step == step for known in models.checkpoints_of(session, job.id)):
            return
    artifacts = _store_published(attempt, folder, f"checkpoints/{job.id}/{fence}/{step:06d}")
    model_id = checkpoint_id(job.model_id, step)
    with context.database.write() as session:
        jobs.lock_for_attempt(session, job.id, fence)
        session.add(
            Checkpoint(
                id=new_id("ftckpt_"),
                project_id=job.project_id,
                job_id=job.id,
                model_id=model_id,
                step=step,
                metrics=_shown(report.metrics),
                artifacts=artifacts,
                created_at=db_now(),
            )
        )
        session.flush()
        events.add_event(session, job.id, f"Checkpoint created at step {step}: {model_id}")
        surplus = _surplus(models.checkpoints_of(session, job.id))
        removed = [gone for checkpoint in surplus if (gone := remove_unnamed(session, checkpoint.id))]
    keys = [artifact["key"] for checkpoint in removed for artifact in checkpoint.artifacts]
    delete_unused(partial(context.storage.delete, keys))


def _shown(metrics: Metrics) -> Metrics:
    return {
        name: value
        for name, value in metrics.items()
        if name.startswith(CHECKPOINT_METRICS) and isinstance(value, (int, float))
    }


def _surplus(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Return all checkpoints except the KEPT_CHECKPOINTS newest and the one with the lowest validation loss."""

    def loss(checkpoint: Checkpoint) -> float:
        metrics = checkpoint.metrics
        valid_loss = metrics.get("full_valid_loss", metrics.get("valid_loss"))
        return float("inf") if valid_loss is None else float(valid_loss)

    best = min(checkpoints, key=loss) if checkpoints else None
    return [checkpoint for checkpoint in checkpoints[:-KEPT_CHECKPOINTS] if checkpoint is not best]


def publish(attempt: AttemptContext, report: DoneReport, folder: Path, measured: Measured) -> None:
    """Store the model. Then write its row, the result files' rows and the job's success in one transaction.

    `measured`: the training's time and memory, stored beside the estimate.
    """
    job, fence, context = attempt.job, attempt.claim.fence, attempt.node.context
    artifacts = _store_published(attempt, folder, f"models/{job.id}/{fence}")
    results = _store_results(attempt)
    archive = File(
        filename=f"{job.id}.tar",
        bytes=tar_size(trained_artifacts(artifacts)),
        model_id=job.model_id,
        **_result_file(job),
    )
    with context.database.write() as session:
        estimate = jobs.lock_for_attempt(session, job.id, fence).estimate  # first: another attempt may have published
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
        session.add_all((results, archive))
        session.flush()
        if (hub := (job.recipe.get("export") or {}).get("hub")) is not None:
            trackings.add(session, job.id, HUB, options=hub, at_once=True)
        events.add_event(session, job.id, f"New fine-tuned model created: {job.model_id}")
        if (message := best_step_message(job, report)) is not None:
            events.add_event(session, job.id, message)
        jobs.transition(
            session,
            job.id,
            JobStatus.SUCCEEDED,
            message="The job has successfully completed",
            fence=fence,
            fine_tuned_model=job.model_id,
            result_files=[results.id, archive.id],
            trained_tokens=report.trained_tokens,
            evaluation=report.evaluation,
            eval_runs=begin_evals(session, job),
            estimate=None if estimate is None else {**estimate, "actual": msgspec.to_builtins(measured)},
        )
        job_queue.end_attempt(session, attempt.claim, "succeeded")


def begin_evals(session: Session, job: Job) -> list[JsonObject] | None:
    """Create the runs of the evals that the job names, except deleted evals. Return the ids of each run, its eval and
    its model; None if the job names no eval."""
    wanted = [JobEval.model_validate(each) for each in job.recipe.get("evals") or ()]
    begun: list[JsonObject] = []
    # Two jobs that name the same evals lock them in the same order, and so neither waits for the other for ever.
    locked = {name: evals.lock(session, job.project_id, name) for name in sorted({each.eval_id for each in wanted})}
    for each in wanted:
        if (row := locked[each.eval_id]) is None:
            events.add_event(session, job.id, f"The eval {each.eval_id} was deleted, so it is not run", level="warn")
            continue
        kept = models.checkpoints_of(session, job.id) if each.checkpoints else ()
        for model in (job.model_id, *(checkpoint.model_id for checkpoint in kept)):
            source, pairs = each.run_source(model), {"fine_tuning_job": job.id}
            run = eval_runs.add(session, row, job.key_id or "", source, name=model, pairs=pairs)
            events.add_event(session, job.id, f"Evaluation of {model} started: {run.id}")
            begun.append({"eval_id": row.id, "run_id": run.id, "model": model})
    return begun if wanted else None


def _store_results(attempt: AttemptContext) -> File:
    """Store the table of the job's metrics as a file. Return the file's row, which the caller inserts."""
    job, context = attempt.job, attempt.node.context
    fields = _result_file(job)
    key = f"files/{job.project_id}/{fields['id']}"
    with context.database.read() as session:
        numbers = events.newest_metrics(session, job.id)
    with NamedTemporaryFile("w", encoding="utf-8", dir=attempt.folder) as file:
        write_results(file, partial(_metrics, context.database, numbers))
        file.flush()
        stored = context.storage.write_file(key, Path(file.name))
    return File(filename="step_metrics.csv", bytes=stored.bytes, sha256=stored.sha256, storage_key=key, **fields)


def _metrics(database: Database, numbers: Sequence[int]) -> Iterator[Metrics]:
    for batch in events.batches_of(numbers):
        with database.read() as session:
            found = events.metrics_at(session, batch)
        yield from found


def _result_file(job: Job) -> dict[str, object]:
    return {
        "id": new_id("file-"),
        "project_id": job.project_id,
        "key_id": job.key_id,
        "purpose": RESULTS,
        "created_at": db_now(),
    }


def best_step_message(job: Job, report: DoneReport) -> str | None:
    """Return the message of an event that names the published step; None if the last step was published."""
    best, last = report.best_step, report.step
    if best in (None, last) or not (job.resolved or {}).get("keep_best"):
        return None
    return (
        f"The model has the weights of step {best} of {last}, which had the lowest validation loss. With "
        "training.keep_best false, a job publishes the weights of its last step"
    )
