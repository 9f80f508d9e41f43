"""What a job is expected to take, by which it is admitted; and what it then took, by which the next is predicted."""

from dataclasses import dataclass
from typing import Any

from api.estimate.machine import Machine, predict, refused_precision, too_large
from api.estimate.shapes import require_whole_blocks
from api.estimate.speed import Observation, with_job
from api.estimate.work import Workload
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


@dataclass(frozen=True)
class Workloads:
    """The rows that a job trains and evaluates on."""

    train: Workload
    validation: Workload | None

    def stored(self) -> dict[str, Any]:
        return {name: _stored(work) for name, work in (("train", self.train), ("validation", self.validation)) if work}

    @classmethod
    def of(cls, stored: dict[str, Any]) -> "Workloads":
        found = {name: Workload(**{**work, "lengths": tuple(work["lengths"])}) for name, work in stored.items()}
        return cls(found["train"], found.get("validation"))


def _stored(work: Workload) -> dict[str, Any]:
    return {**vars(work), "lengths": list(work.lengths)}


def require_room(
    live: list[Worker], base: BaseModelRow, resolved: ResolvedRecipe, workloads: Workloads, *, gpu: bool
) -> None:
    """Refuse what fits no worker. Where none says what it has, anything may."""
    machines = [workers.machine(worker) for worker in live if not gpu or worker.gpus]
    try:
        if not gpu:
            require_whole_blocks(resolved.technique, base.facts)
        predictions = [
            predict(resolved, base.facts, workloads.train, workloads.validation, machine) for machine in machines
        ]
    except NoTargetModules as no_place:
        raise AttemptFailed(
            FailureReason.INVALID_RECIPE, f"{str(no_place).rstrip('.')}.", param=no_place.param
        ) from None
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


def machine_of(node: Node, slot: Slot) -> Machine:
    """What the next job has in this slot, as far as other work leaves it."""
    with node.context.database.read() as session:
        observed = workers.observed(session, node.owner)
    warm = node.context.settings.warm_trainers
    return machine_for(slot.gpu, slots=node.slots.count, warm=warm, observed=observed)


def record_observation(attempt: AttemptContext, predicted: dict[str, Any], measured: dict[str, Any]) -> None:
    """Store how fast this worker was, for the estimates of later jobs."""
    node = attempt.node
    job = Observation(
        precision=predicted["precision"],
        flops=predicted["flops"],
        passes=predicted["passes"],
        training_s=measured["training_s"],
        rest_s=max(0.0, measured["seconds"] - measured["training_s"]),
        parameters=attempt.base.facts["parameters"],
    )
    with node.context.database.write() as session:
        workers.observe(session, node.owner, with_job(workers.observed(session, node.owner), job))
