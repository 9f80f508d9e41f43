"""One attempt at training a job: fill its run folder, run the trainer, and find out why it ended."""

import json
import signal
from pathlib import Path

from api.estimate.machine_fields import Machine, predict, refused_precision, resolve_hardware_auto
from api.estimate.stored import StoredEstimate
from api.records import events, jobs, trackings
from api.records.base import db_now
from api.spec.lifecycle import FailureReason
from api.spec.manifest import ORIGIN
from api.spec.resolve import HARDWARE_FIELDS, ResolvedRecipe, with_hardware
from worker.shared import memory_overrides
from worker.shared.cgroup import out_of_memory_kills
from worker.supervisor.attempt import AttemptContext
from worker.supervisor.estimates import Workloads, machine_of, record_observation
from worker.supervisor.faults import AttemptFailed, Interrupted
from worker.supervisor.inputs import fetch_state
from worker.supervisor.lineage import fetch_parent_adapter, fetch_reward_models, fetch_weights, weights_are_damaged
from worker.supervisor.measurements import keep_measurements, link_measurements
from worker.supervisor.out_of_memory import (
    killed_for_memory,
    reduce_memory,
    require_free_memory,
    with_overrides,
)
from worker.supervisor.prepare import fetch_arrays
from worker.supervisor.provenance import origin_of
from worker.supervisor.remaining import predicted_s, share_done
from worker.supervisor.slots import Slot
from worker.supervisor.trainer_monitor import TrainerMonitor

DAMAGE_SYMPTOMS = (FailureReason.INTERNAL, FailureReason.DIVERGED)
"""Reasons of failures that flipped bits in a base model can cause. Only after these is the cached copy hashed again,
because hashing takes a while."""
DAMAGED_COPY = "The worker's copy of the base model was damaged. The worker fetches it again."


def train(attempt: AttemptContext, slot: Slot) -> None:
    """Train the job. Raise AttemptFailed, StaleFence or StorageUnavailable if that fails, Interrupted or ReadingStopped
    if the worker shuts down before the trainer starts."""
    node, job, folder = attempt.node, attempt.job, attempt.folder
    machine = machine_of(node, slot)
    resolved = _resolve_hardware(attempt, machine)
    attempted = with_overrides(job, resolved)
    estimate = _predict(attempt, attempted, machine)
    if estimate and slot.gpu is not None:
        require_free_memory(slot.gpu, estimate)
    _fill_run_folder(attempt, resolved)
    fetch_arrays(attempt)
    resumed_at = _fetch_state(attempt)
    memory_overrides.write(folder, attempted, resolved)
    with node.context.database.write() as session:
        trackings.make_due(session, job.id)
    if node.stopping.is_set():
        raise Interrupted  # the trainer could take longer to load the model than it may take to stop
    kills_before = out_of_memory_kills()
    trainer = node.start_child("worker.train", folder, gpu=slot.gpu)
    predicted = estimate["predicted"] if estimate else None
    monitor = TrainerMonitor(attempt, trainer, predicted, resumed_at=resumed_at)
    try:
        monitor.run()
    except AttemptFailed as fault:
        killed = monitor.exit_code == -signal.SIGKILL and out_of_memory_kills() > kills_before
        if killed or fault.reason is FailureReason.OUT_OF_MEMORY:
            reduce_memory(attempt, attempted, machine, killed=killed)
        if killed:
            raise killed_for_memory(attempted, machine, estimate) from fault
        if fault.reason in DAMAGE_SYMPTOMS and weights_are_damaged(node, job, attempt.base):
            raise AttemptFailed(FailureReason.WORKER_FAULT, DAMAGED_COPY) from fault
        raise
    finally:
        trainer.kill()
        keep_measurements(node.cache, folder, keep_days=node.context.settings.keep_arrays_days)
    if estimate and monitor.measured and not job.state:  # a resumed attempt has not trained all steps
        record_observation(attempt, estimate, monitor.measured)


def _resolve_hardware(attempt: AttemptContext, machine: Machine) -> ResolvedRecipe:
    """Return the recipe with each "auto" that depends on the machine replaced. The first attempt that saves a state
    decides for all later ones; until then, each attempt decides for the memory that is free when it begins."""
    job, base = attempt.job, attempt.base
    prepared = ResolvedRecipe.model_validate(job.resolved)
    if job.state is None:
        requested = {name: getattr(attempt.recipe.training, name) for name in (*HARDWARE_FIELDS, "precision")}
        prepared = prepared.model_copy(update=requested)
    # Only the user's own choice is refused: a precision that another machine resolved is trained here too, if slowly.
    if refused := refused_precision(attempt.recipe.training.precision, machine):
        raise AttemptFailed(FailureReason.INVALID_RECIPE, f"{refused}.", param="training.precision")
    resolved = resolve_hardware_auto(
        prepared, base.facts, machine, Workloads.of(job.estimate).train if job.estimate else None
    )
    if resolved != prepared:
        fields = with_hardware(job.resolved or {}, resolved)
        with attempt.node.context.database.write() as session:
            jobs.update_fenced(session, job.id, attempt.claim.fence, resolved=fields)
    return resolved


def _predict(attempt: AttemptContext, attempted: ResolvedRecipe, machine: Machine) -> StoredEstimate | None:
    """Store this worker's estimate of the job's time and memory, and return it. None for jobs of versions without
    estimates."""
    job = attempt.job
    if not job.estimate:
        return None
    workloads = Workloads.of(job.estimate)
    predicted = predict(attempted, attempt.base.facts, workloads.train, workloads.validation, machine)
    estimate: StoredEstimate = {**job.estimate, "predicted": predicted.stored()}
    newest = job.state["step"] if job.state else 0
    finish = db_now() + predicted_s(estimate["predicted"], share_done(job, newest))
    with attempt.node.context.database.write() as session:
        jobs.update_fenced(session, job.id, attempt.claim.fence, estimate=estimate, estimated_finish=finish)
    return estimate


def _fill_run_folder(attempt: AttemptContext, resolved: ResolvedRecipe) -> None:
    node, job, folder = attempt.node, attempt.job, attempt.folder
    assert job.resolved is not None, job.id
    (folder / "recipe.json").write_text(json.dumps(with_hardware(job.resolved, resolved), indent=2))
    weights, origin = fetch_weights(node, job, attempt.base), origin_of(node, job, attempt.base)
    (folder / "base").symlink_to(weights)
    fetch_parent_adapter(node, job, folder / "start")
    (folder / ORIGIN).write_text(origin.model_dump_json(indent=2))
    link_measurements(node.cache, folder, project_id=job.project_id, base=weights.name, continues=origin.continues)
    fetch_reward_models(node, attempt.recipe, folder)
    _link_embedding_model(attempt)


def _link_embedding_model(attempt: AttemptContext) -> None:
    """Put the operator's embedding model into the run folder, if the job's grader needs it. Raise AttemptFailed if this
    worker has none."""
    grader, model = attempt.recipe.method.grader, attempt.node.context.settings.embedding_folder
    if grader is None or not grader.embedding_fields:
        return
    if model is None or not Path(model, "config.json").is_file():
        message = "The job's grader computes cosine similarity, but this worker's ATTUNE_EMBEDDING_MODEL names no model"
        raise AttemptFailed(FailureReason.WORKER_FAULT, message)
    (attempt.folder / "embedding_model").symlink_to(model)


def _fetch_state(attempt: AttemptContext) -> int:
    """Put the saved state to resume from into the run folder, and add an event that names its step. Return the step; 0
    if the training starts from the beginning."""
    job, context = attempt.job, attempt.node.context
    if job.state is None:
        return 0
    newest, step = job.state["step"], fetch_state(attempt.node.storage, job.state, attempt.folder / "resume")
    message, level = f"Fine-tuning job resumes from step {step}", "info"
    if step < newest:
        message = f"The state saved at step {newest} is damaged: fine-tuning job resumes from step {step}"
        level = "warn"
    with context.database.write() as session:
        jobs.lock_for_attempt(session, job.id, attempt.claim.fence)
        # Forget the damaged state. Otherwise it would be kept as the one before the next state, and this one deleted.
        if 0 < step < newest:
            jobs.update_fenced(session, job.id, attempt.claim.fence, state=job.state["before"])
        events.add_event(session, job.id, message, level=level)
    return step
