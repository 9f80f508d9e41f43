"""What a machine decides of a recipe (precision, micro-batch, recomputation), and what the training will take on it.

The same numbers settle the recipe before it is trained, admit or refuse the job, and answer an estimate.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from api.estimate.memory import MemoryParts, Setting, peak_memory
from api.estimate.shapes import trained_parameters
from api.estimate.speed import speed_of
from api.estimate.work import Base, Workload, training_work
from api.fields import AUTO
from api.recipe import ResolvedRecipe
from api.techniques import TechniqueBase

MICRO_BATCH_TOKENS_CPU = 2048
MICRO_BATCH_TOKENS_GPU = 16384
FREE_SHARE = 0.7
"""Of the free memory, what a training may be expected to fill before its activations are recomputed: the estimate is
rough, and allocators fragment."""
SMALLEST_SHARE = 8
"""So many times smaller may a micro-batch become where memory runs out (three halvings: worker.engine.less_memory)."""


@dataclass(frozen=True)
class Machine:
    gpu: bool
    bfloat16: bool
    """It multiplies in it at least as fast as in float32."""
    memory_bytes: int | None
    """Of the GPU, or of the machine without one; None if unknown."""
    observed: dict[str, Any] | None = None


@dataclass(frozen=True)
class Prediction:
    precision: str
    gradient_checkpointing: bool
    micro_batch_tokens: int
    trained_parameters: int
    memory: MemoryParts
    fits: bool | None
    """Even if it is made as small as the trainer can make it; None where the machine's memory is not known."""
    training_s: float
    seconds: float
    measured: bool
    flops: float
    passes: float

    def stored(self) -> dict[str, Any]:
        return {**asdict(self), "memory": {**asdict(self.memory), "total": self.memory.total}}


def may_recompute(technique: TechniqueBase, facts: Mapping[str, Any]) -> bool:
    """Whether activations can be recomputed. Bases from before this was noted do not say, and are taken to allow it."""
    return technique.recomputes and bool(facts.get("recomputes", True))


def settle(
    recipe: ResolvedRecipe,
    facts: Mapping[str, Any],
    *,
    gpu: bool,
    bfloat16: bool,
    free_bytes: int | None,
    train: Workload | None = None,
) -> ResolvedRecipe:
    """Replace what is still "auto". `train`: the rows, where they are known; else each is taken for the longest."""
    precision = recipe.precision
    if precision == AUTO:
        precision = "bfloat16" if gpu or bfloat16 else "float32"
    budget = MICRO_BATCH_TOKENS_GPU if gpu else MICRO_BATCH_TOKENS_CPU
    tokens = max(recipe.max_length, budget) if recipe.micro_batch_tokens == "auto" else recipe.micro_batch_tokens
    settled = recipe.model_copy(update={"precision": precision, "micro_batch_tokens": tokens})
    if recipe.gradient_checkpointing == AUTO:
        setting = Setting(gpu, _value_bytes(precision), tokens, recompute=False)
        needed = _memory(settled, facts, train or _longest_rows(recipe), setting).total
        recompute = (
            may_recompute(recipe.technique, facts) and free_bytes is not None and needed > FREE_SHARE * free_bytes
        )
        settled = settled.model_copy(update={"gradient_checkpointing": recompute})
    return settled


def predict(
    recipe: ResolvedRecipe, facts: Mapping[str, Any], train: Workload, validation: Workload | None, machine: Machine
) -> Prediction:
    """What the training takes on this machine. Raises api.estimate.targets.NoPlace."""
    settled = settle(
        recipe,
        facts,
        gpu=machine.gpu,
        bfloat16=machine.bfloat16,
        free_bytes=machine.memory_bytes,
        train=train,
    )
    assert settled.micro_batch_tokens != "auto", settled
    assert settled.gradient_checkpointing != "auto", settled
    value, budget = _value_bytes(settled.precision), settled.micro_batch_tokens
    base, trained = Base.of(facts), _trained(settled, facts)
    memory = _memory(settled, facts, train, Setting(machine.gpu, value, budget, settled.gradient_checkpointing))
    work = training_work(settled, base, trained, train, validation, budget)
    speed = speed_of(machine.observed, gpu=machine.gpu, precision=str(settled.precision))
    training_s = speed.training_s(work)
    return Prediction(
        precision=str(settled.precision),
        gradient_checkpointing=settled.gradient_checkpointing,
        micro_batch_tokens=budget,
        trained_parameters=trained,
        memory=memory,
        fits=None if machine.memory_bytes is None else _smallest(recipe, settled, facts, train, machine),
        training_s=training_s,
        seconds=training_s + speed.rest_s(base.parameters),
        measured=speed.measured,
        flops=work.flops,
        passes=work.passes,
    )


def too_large(prediction: Prediction, largest: int) -> str:
    return (
        f"The job would take about {prediction.memory.total / 2**30:.1f} GiB of memory, and the largest worker has "
        f"{largest / 2**30:.1f} GiB, too little even with recomputation and the smallest micro-batches. Choose a "
        "smaller base model, another technique, or a lower training.max_length"
    )


def _smallest(
    asked: ResolvedRecipe, settled: ResolvedRecipe, facts: Mapping[str, Any], train: Workload, machine: Machine
) -> bool:
    """Whether it fits with the smallest micro-batch that the trainer goes down to, recomputing if it may."""
    assert settled.micro_batch_tokens != "auto", settled
    recompute = asked.gradient_checkpointing in (True, AUTO) and may_recompute(asked.technique, facts)
    budget = max(1, settled.micro_batch_tokens // SMALLEST_SHARE)
    needed = _memory(settled, facts, train, Setting(machine.gpu, _value_bytes(settled.precision), budget, recompute))
    return machine.memory_bytes is None or needed.total <= machine.memory_bytes


def _memory(recipe: ResolvedRecipe, facts: Mapping[str, Any], train: Workload, setting: Setting) -> MemoryParts:
    return peak_memory(recipe, Base.of(facts), facts, _trained(recipe, facts), train, setting)


def _trained(recipe: ResolvedRecipe, facts: Mapping[str, Any]) -> int:
    labels = len(recipe.labels.names) if recipe.labels is not None else None
    return trained_parameters(recipe.technique, recipe.method, facts, labels=labels or None)


def _longest_rows(recipe: ResolvedRecipe) -> Workload:
    rows, length = recipe.batch_size * recipe.steps_per_epoch, recipe.max_length
    return Workload(rows=rows, width=1, tokens=rows * length, supervised=rows * length, lengths=(length,))


def _value_bytes(precision: str) -> int:
    return 2 if precision == "bfloat16" else 4
