"""What a job is expected to take, by which it is admitted; and what it then took, by which the next is predicted."""

from dataclasses import dataclass
from typing import Any

from api.estimate.machine import Machine, Prediction, predict, too_large
from api.estimate.shapes import require_whole_blocks
from api.estimate.speed import Observation, with_job
from api.estimate.targets import NoPlace
from api.estimate.work import Workload
from api.lifecycle import FailureReason
from api.recipe import ResolvedRecipe
from api.records import workers
from api.records.base_models import BaseModel
from api.records.workers import Worker
from worker.arrays import Rows
from worker.counts import count
from worker.hardware import cpu_multiplies_bfloat16, gpu_memory_bytes, memory_bytes
from worker.supervisor.faults import AttemptFailed
from worker.supervisor.node import Node


@dataclass(frozen=True)
class Epoch:
    """The rows that a job trains and evaluates on."""

    train: Workload
    validation: Workload | None

    def stored(self) -> dict[str, Any]:
        return {name: _stored(work) for name, work in (("train", self.train), ("validation", self.validation)) if work}

    @classmethod
    def of(cls, stored: dict[str, Any]) -> "Epoch":
        found = {name: Workload(**{**work, "lengths": tuple(work["lengths"])}) for name, work in stored.items()}
        return cls(found["train"], found.get("validation"))


def _stored(work: Workload) -> dict[str, Any]:
    return {**vars(work), "lengths": list(work.lengths)}


def workload(rows: Rows) -> Workload:
    """Of rows that were cut already."""
    counted = count(rows, asked=None, window=None, drop=False, prompts=rows.items is not None)
    return counted.workload()


def require_room(live: list[Worker], base: BaseModel, resolved: ResolvedRecipe, epoch: Epoch, *, gpu: bool) -> None:
    """Refuse what fits no worker. Where none says what it has, anything may."""
    machines = [_machine(worker, gpu=gpu) for worker in live if not gpu or worker.gpus]
    try:
        if not gpu:
            require_whole_blocks(resolved.technique, base.facts)
        found = [(machine, _predict(base, resolved, epoch, machine)) for machine in machines]
    except NoPlace as no_place:
        raise AttemptFailed(
            FailureReason.INVALID_RECIPE, f"{str(no_place).rstrip('.')}.", param=no_place.param
        ) from None
    if found and all(prediction.fits is False for _, prediction in found):
        raise AttemptFailed(
            FailureReason.INVALID_RECIPE,
            f"{too_large(found[0][1], max(machine.memory_bytes or 0 for machine, _ in found))}.",
            code="does_not_fit",
            param="model",
        )


def predicted_here(base: BaseModel, resolved: ResolvedRecipe, epoch: Epoch, node: Node, *, gpu: bool) -> Prediction:
    """On this worker, as the job will run."""
    with node.context.database.read() as session:
        observed = workers.observed(session, node.owner)
    memory = gpu_memory_bytes("total") if gpu else memory_bytes()
    return _predict(base, resolved, epoch, Machine(gpu, cpu_multiplies_bfloat16(), memory, observed))


def observe(node: Node, base: BaseModel, predicted: dict[str, Any], actual: dict[str, Any]) -> None:
    """Note how fast this worker was."""
    job = Observation(
        precision=predicted["precision"],
        flops=predicted["flops"],
        passes=predicted["passes"],
        training_s=actual["training_s"],
        rest_s=max(0.0, actual["seconds"] - actual["training_s"]),
        parameters=base.facts["parameters"],
    )
    with node.context.database.write() as session:
        workers.observe(session, node.owner, with_job(workers.observed(session, node.owner), job))


def _predict(base: BaseModel, resolved: ResolvedRecipe, epoch: Epoch, machine: Machine) -> Prediction:
    return predict(resolved, base.facts, epoch.train, epoch.validation, machine)


def _machine(worker: Worker, *, gpu: bool) -> Machine:
    memory = worker.gpu_memory_bytes if gpu else worker.memory_bytes
    return Machine(gpu, worker.bfloat16, memory, worker.observed)
