"""After an attempt that ran out of memory: the next one makes do with less of it (worker.shared.memory_overrides)."""

from typing import Any

from api.estimate.machine import HALVINGS, Machine, may_recompute, with_less
from api.records import events, jobs
from api.records.base_models import BaseModelRow
from api.records.jobs import Job
from api.records.queue import Claim
from api.spec.lifecycle import FailureReason
from api.spec.recipe import Recipe
from api.spec.resolve import ResolvedRecipe
from worker.shared import memory_overrides
from worker.supervisor.estimates import Workloads
from worker.supervisor.faults import AttemptFailed
from worker.supervisor.node import Node

LESS = "less"
"""In a job's estimate: the fields that replace the recipe's."""


def as_attempted(job: Job, resolved: ResolvedRecipe) -> ResolvedRecipe:
    """The recipe as this attempt trains it."""
    return resolved.model_copy(update=(job.estimate or {}).get(LESS, {}))


def take_less(
    node: Node, claim: Claim, job: Job, base: BaseModelRow, attempted: ResolvedRecipe, machine: Machine, *, killed: bool
) -> None:
    """Note with the job what its next attempt makes do with. `killed`: the kernel ended the trainer; else it has tried
    smaller micro-batches itself. Raises Stale."""
    if not job.estimate:  # from before there were estimates
        return
    tried = attempted
    if not killed and attempted.micro_batch_tokens != "auto":
        fewest = max(1, attempted.micro_batch_tokens >> HALVINGS)
        tried = attempted.model_copy(update={"micro_batch_tokens": fewest})
    asked = Recipe.model_validate(job.recipe).training.gradient_checkpointing
    recomputes = may_recompute(attempted.technique, base.facts) if asked == "auto" else asked
    rows = Workloads.of(job.estimate["rows"]).train
    less = with_less(tried, base.facts, machine, rows, recomputes=recomputes)
    if less is None:
        return
    again = ", and recomputes activations" if less.gradient_checkpointing else ""
    message = f"Out of memory: the next attempt takes micro-batches of {less.micro_batch_tokens} tokens{again}."
    with node.context.database.write() as session:
        estimate = jobs.lock_for_attempt(session, job.id, claim.fence).estimate or {}
        fields = {name: getattr(less, name) for name in memory_overrides.FIELDS}
        jobs.update_fenced(session, job.id, claim.fence, estimate={**estimate, LESS: fields})
        events.add_event(session, job.id, message, level="warn")


def killed_for_memory(attempted: ResolvedRecipe, machine: Machine, estimate: dict[str, Any] | None) -> AttemptFailed:
    """The kernel ended the trainer: with the numbers, for whoever reads why the job failed."""
    expected = ""
    if estimate and machine.memory_bytes is not None:
        needed = estimate["predicted"]["memory"]["total"]
        expected = f", where about {needed / 2**30:.1f} of {machine.memory_bytes / 2**30:.1f} GiB were expected"
    return AttemptFailed(
        FailureReason.OUT_OF_MEMORY,
        "The worker's memory was full, and its kernel ended the trainer. It trained with micro-batches of "
        f"{attempted.micro_batch_tokens} tokens{expected}. Lower training.max_length, or choose a smaller base model "
        "or technique.",
    )
