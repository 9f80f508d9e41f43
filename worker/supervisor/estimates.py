"""Estimates of a job: whether a worker has enough memory for it, and the measured speed of finished jobs for later
estimates."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from api.estimate.machine_fields import Machine, predict, refused_precision, too_large
from api.estimate.shapes import require_whole_blocks
from api.estimate.speed import with_job
from api.estimate.stored import Observation, StoredEstimate, StoredWorkload
from api.estimate.work import PACKED_FAMILIES, Workload
from api.records import workers
from api.records.base_models import BaseModelRow
from api.records.workers import Worker
from api.spec.lifecycle import FailureReason
from api.spec.resolve import ResolvedRecipe
from api.spec.target_modules import NoTargetModules
from worker.shared.hardware import machine_for
from worker.supervisor.attempt import AttemptContext
from worker.supervisor.faults import AttemptFailed
from worker.supervisor.node import Node
from worker.supervisor.slots import Slot


class Measured(msgspec.Struct, omit_defaults=True):
    """The time and memory of a successful training. Stored as `actual` in the job's estimate."""

    seconds: float
    training_s: float
    """Seconds of the steps, the evaluations between them and the comparison with the base model."""
    peak_bytes: int | None = None
    peaks: dict[str, int] | None = None
    """Peak memory of each phase in bytes."""
    processor_s: dict[str, float] | None = None
    """Processor time of each phase in seconds."""
    device: str | None = None


@dataclass(frozen=True)
class Workloads:
    """The numbers and lengths of the rows that a job trains and evaluates on."""

    train: Workload
    validation: Workload | None

    def stored(self) -> dict[str, StoredWorkload]:
        """Return the workloads as JSON, for the job's estimate."""
        pairs = (("train", self.train), ("validation", self.validation))
        return {name: rows.stored() for name, rows in pairs if rows}

    @classmethod
    def of(cls, estimate: StoredEstimate) -> "Workloads":
        parts = {name: Workload.of(rows) for name, rows in estimate["rows"].items()}
        return cls(parts["train"], parts.get("validation"))


def require_room(
    known: Sequence[Worker], base: BaseModelRow, resolved: ResolvedRecipe, workloads: Workloads, *, gpu: bool
) -> float | None:
    """Return the predicted seconds on the fastest known worker with enough memory for the job; None without known
    workers.

    Raise AttemptFailed if no known worker has enough memory or supports the requested precision, or if the technique
    finds no layer to train. A worker whose memory is unknown counts as large enough. `gpu`: only workers with a GPU
    count.
    """
    machines = [workers.machine(worker) for worker in known if not gpu or worker.gpus]
    try:
        if not gpu:
            require_whole_blocks(resolved.technique, base.facts)
        predictions = [
            predict(resolved, base.facts, workloads.train, workloads.validation, machine) for machine in machines
        ]
    except NoTargetModules as error:
        raise AttemptFailed(FailureReason.INVALID_RECIPE, f"{str(error).rstrip('.')}.", param=error.param) from None
    refused = [refused_precision(resolved.precision, machine) for machine in machines]
    if refused and all(refused):
        raise AttemptFailed(FailureReason.INVALID_RECIPE, f"{refused[0]}.", param="training.precision")
    if predictions and all(prediction.fits is False for prediction in predictions):
        raise AttemptFailed(
            FailureReason.INVALID_RECIPE,
            f"{too_large(predictions[0], max(machine.memory_bytes or 0 for machine in machines))}.",
            code="does_not_fit",
            param="model",
        )
    return min((prediction.seconds for prediction in predictions if prediction.fits is not False), default=None)


def machine_of(node: Node, slot: Slot) -> Machine:
    """Return the resources of the next job in this slot: its GPU or processor, the memory that is free now, and the
    speed that was measured on this worker."""
    with node.context.database.read() as session:
        observed = workers.observations(session, node.owner)
    return machine_for(slot.gpu, slots=node.slots.count, observed=observed)


def record_observation(attempt: AttemptContext, estimate: StoredEstimate, measured: Measured) -> None:
    """Store how fast this worker trained the job, for the estimates of later jobs on this worker.

    Left out are pairs whose prompts are computed once, and groups of answers, of which some need no update: the
    predicted operations count all of them, so the worker would appear to be faster than it is.
    """
    node, predicted = attempt.node, estimate["predicted"]
    rollout = attempt.recipe.method.rollout_options
    pairs = Workloads.of(estimate).train.width > 1 and attempt.base.facts.get("model_type") in PACKED_FAMILIES
    if pairs or (rollout is not None and rollout.num_generations > 1):
        return
    job = Observation(
        precision=predicted["precision"],
        flops=predicted["flops"],
        passes=predicted["passes"],
        training_s=measured.training_s,
        rest_s=max(0.0, measured.seconds - measured.training_s),
        parameters=attempt.base.facts["parameters"],
    )
    with node.context.database.write() as session:
        workers.set_observations(session, node.owner, with_job(workers.observations(session, node.owner), job))
