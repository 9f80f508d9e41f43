"""The responses to a lack of memory.

A job waits for a GPU that other programs hold. The attempt after one that ran out of memory uses less
(worker.shared.memory_overrides).
"""

from api.estimate.machine_fields import HALVINGS, Machine, may_recompute, with_less_memory
from api.estimate.stored import StoredEstimate
from api.records import events, jobs
from api.records.jobs import Job
from api.spec.lifecycle import FailureReason
from api.spec.resolve import ResolvedRecipe
from worker.shared import memory_overrides
from worker.shared.gpus import find_gpu
from worker.supervisor.attempt import AttemptContext
from worker.supervisor.estimates import Workloads
from worker.supervisor.faults import AttemptFailed

FREE_SHARE = 0.85
"""A job waits for its GPU if less than this share of the predicted memory is free. With more, it may well fit."""


def require_free_memory(gpu: str, estimate: StoredEstimate) -> None:
    """Raise AttemptFailed if other programs, such as a sampler, hold so much of the GPU's memory that the job would run
    out of it. The job is then retried without limit, because it fits the GPU."""
    device, needed = find_gpu(gpu), estimate["predicted"]["memory"]["total"]
    if device is None or device.total_bytes is None or device.free_bytes is None:
        return
    if device.free_bytes < FREE_SHARE * needed and needed <= device.total_bytes:
        raise AttemptFailed(
            FailureReason.WORKER_FAULT,
            f"Other programs, such as a sampler, use the GPU: {device.free_bytes / 2**30:.1f} of "
            f"{device.total_bytes / 2**30:.1f} GiB are free, and the job needs about {needed / 2**30:.1f} GiB",
        )


def with_overrides(job: Job, resolved: ResolvedRecipe) -> ResolvedRecipe:
    """Return the recipe with the overrides that an earlier attempt stored after it ran out of memory, if there are
    any."""
    return resolved.model_copy(update=job.estimate.get("less", {}) if job.estimate else {})


def reduce_memory(attempt: AttemptContext, attempted: ResolvedRecipe, machine: Machine, *, killed: bool) -> None:
    """Store overrides for the job's next attempt: smaller micro-batches, or recomputation of activations.

    `killed`: the kernel ended the trainer. Otherwise the trainer has already tried smaller micro-batches itself. Raises
    StaleFence if the attempt no longer owns the job.
    """
    job, base = attempt.job, attempt.base
    if not job.estimate:  # created by a version without estimates
        return
    tried = attempted
    if not killed and attempted.micro_batch_tokens != "auto":
        smallest = max(1, attempted.micro_batch_tokens >> HALVINGS)
        tried = attempted.model_copy(update={"micro_batch_tokens": smallest})
    requested = attempt.recipe.training.gradient_checkpointing
    recomputes = may_recompute(attempted.technique, base.facts) if requested == "auto" else requested
    rows = Workloads.of(job.estimate).train
    less = with_less_memory(tried, base.facts, machine, rows, recomputes=recomputes)
    if less is None:
        return
    recompute = " and recomputes activations" if less.gradient_checkpointing else ""
    message = f"Out of memory: the next attempt uses micro-batches of {less.micro_batch_tokens} tokens{recompute}."
    with attempt.node.context.database.write() as session:
        estimate = jobs.lock_for_attempt(session, job.id, attempt.claim.fence).estimate or job.estimate
        fields = {name: getattr(less, name) for name in memory_overrides.FIELDS}
        jobs.update_fenced(session, job.id, attempt.claim.fence, estimate={**estimate, "less": fields})
        events.add_event(session, job.id, message, level="warn")


def killed_for_memory(attempted: ResolvedRecipe, machine: Machine, estimate: StoredEstimate | None) -> AttemptFailed:
    """Return the failure of a trainer that the kernel ended for lack of memory, with the numbers that explain it."""
    expected = ""
    if estimate and machine.memory_bytes is not None:
        needed = estimate["predicted"]["memory"]["total"]
        expected = f" and was estimated to need about {needed / 2**30:.1f} of {machine.memory_bytes / 2**30:.1f} GiB"
    return AttemptFailed(
        FailureReason.OUT_OF_MEMORY,
        "The worker's memory was full, and its kernel ended the trainer. It trained with micro-batches of "
        f"{attempted.micro_batch_tokens} tokens{expected}. Lower training.max_length, or choose a smaller base model "
        "or technique.",
    )
