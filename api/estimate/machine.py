"""What a machine decides of a recipe (precision, micro-batch, recomputation), and what the training will take on it.

The same numbers settle the recipe before it is trained, admit or refuse the job, and answer an estimate.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

from api.estimate.memory import ExecutionPlan, MemoryParts, largest_batch, peak_memory
from api.estimate.shapes import trained_parameters
from api.estimate.speed import speed_of
from api.estimate.stored import Observations, StoredPrediction
from api.estimate.work import Base, Workload, training_work
from api.spec.base_model import BaseModelFacts
from api.spec.fields import AUTO
from api.spec.resolve import ResolvedRecipe
from api.spec.techniques import TechniqueBase

MICRO_BATCH_TOKENS_CPU = 2048
MICRO_BATCH_TOKENS_GPU = 16384
COMFORTABLE_SHARE = 0.85
"""Share of the memory up to which a prediction is trusted: most are within 15 % (docs/benchmarks.md), and allocators
fragment. What needs more than this takes a smaller micro-batch, or recomputes."""
HALVINGS = 3
"""An eighth of the usual micro-batch is tried before activations are recomputed; and a trainer whose memory runs out
halves its micro-batch so often."""
LESS = 0.75
"""After an attempt that ran out of memory: the share of its predicted memory that the next one may need."""


@dataclass(frozen=True)
class Machine:
    gpu: bool
    bfloat16: bool
    """It multiplies in it at least as fast as in float32."""
    memory_bytes: int | None
    """What a job may take of the GPU, or of the machine without one; None if unknown."""
    observed: Observations | None = None


@dataclass(frozen=True)
class Prediction:
    precision: str
    gradient_checkpointing: bool
    micro_batch_tokens: int
    trained_parameters: int
    memory: MemoryParts
    fits: bool | None
    """`memory` is at most what the machine has; None where that is not known."""
    training_s: float
    seconds: float
    measured: bool
    flops: float
    passes: float

    def stored(self) -> StoredPrediction:
        """Return the JSON for the job's row."""
        fields = {**asdict(self), "memory": {**asdict(self.memory), "total": self.memory.total}}
        return cast(StoredPrediction, fields)


def may_recompute(technique: TechniqueBase, facts: BaseModelFacts) -> bool:
    """Whether activations can be recomputed. Bases from before this was noted do not say, and are taken to allow it."""
    return technique.recomputes and bool(facts.get("recomputes", True))


def resolve_hardware_auto(
    recipe: ResolvedRecipe, facts: BaseModelFacts, machine: Machine, train: Workload | None = None
) -> ResolvedRecipe:
    """Replace what is still "auto". `train`: the rows, where they are known; else each is taken for the longest.

    The largest micro-batch that fits is chosen: without recomputation down to an eighth of the usual size, then with
    it, down to the longest row. Where nothing fits it is the smallest.
    """
    precision = recipe.precision
    if precision == AUTO:
        precision = "bfloat16" if machine.bfloat16 else "float32"
    recipe = recipe.model_copy(update={"precision": precision})
    if AUTO not in (recipe.micro_batch_tokens, recipe.gradient_checkpointing):
        return recipe
    usual = max(recipe.max_length, MICRO_BATCH_TOKENS_GPU if machine.gpu else MICRO_BATCH_TOKENS_CPU)
    tokens = usual if recipe.micro_batch_tokens == "auto" else recipe.micro_batch_tokens
    rows = train or _longest_rows(recipe)
    sizes = Sizes.of(recipe, rows, tokens) if recipe.micro_batch_tokens == "auto" else Sizes(tokens, tokens, tokens)
    recomputes = (False, True) if may_recompute(recipe.technique, facts) else (False,)
    if recipe.gradient_checkpointing != "auto":
        recomputes = (recipe.gradient_checkpointing,)
    limit = math.inf if machine.memory_bytes is None else COMFORTABLE_SHARE * machine.memory_bytes
    chosen = _largest(sizes, recomputes, limit, _needing(recipe, facts, rows, machine))
    return recipe.model_copy(update=chosen)


def with_less(
    settled: ResolvedRecipe, facts: BaseModelFacts, machine: Machine, train: Workload, *, recomputes: bool
) -> ResolvedRecipe | None:
    """The recipe for another attempt after one that ran out of memory: the largest micro-batch, without recomputation
    or else with it, that is predicted to need three quarters of the memory at most. None if nothing needs less.

    `recomputes`: it may recompute although the first attempt did not.
    """
    assert settled.micro_batch_tokens != "auto", settled
    assert settled.gradient_checkpointing != "auto", settled
    tokens, recompute = settled.micro_batch_tokens, settled.gradient_checkpointing
    needed = _needing(settled, facts, train, machine)
    kinds = (False, True) if recomputes and not recompute else (recompute,)
    before = needed(recompute, tokens)
    limit = LESS * min(before, machine.memory_bytes or before)
    chosen = _largest(Sizes.of(settled, train, tokens), kinds, limit, needed)
    less = needed(chosen["gradient_checkpointing"], chosen["micro_batch_tokens"]) < before
    return settled.model_copy(update=chosen) if less else None


@dataclass(frozen=True)
class Sizes:
    """Micro-batches to choose from, in tokens."""

    largest: int
    eighth: int
    """Of the largest that the rows fill."""
    smallest: int
    """The longest row, which is never divided."""

    @classmethod
    def of(cls, recipe: ResolvedRecipe, rows: Workload, largest: int) -> "Sizes":
        longest, filled = (math.ceil(largest_batch(recipe, rows, budget)) for budget in (1, largest))
        smallest = min(longest, largest)
        return cls(largest, max(smallest, min(filled, largest) >> HALVINGS), smallest)


def _largest(
    sizes: Sizes, recomputes: Sequence[bool], limit: float, needed: Callable[[bool, int], int]
) -> dict[str, Any]:
    """The largest micro-batch that needs at most `limit` bytes; where none does, the one that needs least.
    Recomputation comes last, and before it nothing that is much slower."""
    for recompute in recomputes:
        least = sizes.smallest if recompute == recomputes[-1] else sizes.eighth
        if needed(recompute, least) <= limit:
            # More tokens never need less, so that the largest is found by bisection.
            tried = range(least, sizes.largest + 1)
            found = bisect_right(tried, limit, key=partial(needed, recompute))
            return {"micro_batch_tokens": tried[found - 1], "gradient_checkpointing": recompute}
    least_of = min(recomputes, key=lambda recompute: needed(recompute, sizes.smallest))
    return {"micro_batch_tokens": sizes.smallest, "gradient_checkpointing": least_of}


def _needing(
    recipe: ResolvedRecipe, facts: BaseModelFacts, rows: Workload, machine: Machine
) -> Callable[[bool, int], int]:
    """Bytes of the training by recomputation and the tokens of a micro-batch. Publishing takes the same with all."""
    base, trained, value = Base.of(facts), _trained(recipe, facts), _value_bytes(recipe.precision)

    def needed(recompute: bool, tokens: int) -> int:
        return peak_memory(
            recipe, base, facts, trained, rows, ExecutionPlan(machine.gpu, value, tokens, recompute)
        ).training

    return needed


def predict(
    recipe: ResolvedRecipe, facts: BaseModelFacts, train: Workload, validation: Workload | None, machine: Machine
) -> Prediction:
    """What the training takes on this machine. Raises api.spec.target_modules.NoTargetModules."""
    settled = resolve_hardware_auto(recipe, facts, machine, train)
    assert settled.micro_batch_tokens != "auto", settled
    assert settled.gradient_checkpointing != "auto", settled
    value, budget = _value_bytes(settled.precision), settled.micro_batch_tokens
    base, trained = Base.of(facts), _trained(settled, facts)
    setting = ExecutionPlan(machine.gpu, value, budget, settled.gradient_checkpointing)
    memory = peak_memory(settled, base, facts, trained, train, setting)
    work = training_work(settled, base, trained, train, validation, budget)
    speed = speed_of(machine.observed, gpu=machine.gpu, precision=str(settled.precision))
    training_s = speed.training_s(work)
    return Prediction(
        precision=str(settled.precision),
        gradient_checkpointing=settled.gradient_checkpointing,
        micro_batch_tokens=budget,
        trained_parameters=trained,
        memory=memory,
        fits=None if machine.memory_bytes is None else memory.total <= machine.memory_bytes,
        training_s=training_s,
        seconds=training_s + speed.rest_s(base.parameters),
        measured=speed.measured,
        flops=work.flops,
        passes=work.passes,
    )


def too_large(prediction: Prediction, largest: int) -> str:
    smallest = "recomputation and " if prediction.gradient_checkpointing else ""
    return (
        f"The job would take about {prediction.memory.total / 2**30:.1f} GiB of memory, and the largest worker has "
        f"{largest / 2**30:.1f} GiB for it, too little even with {smallest}micro-batches of "
        f"{prediction.micro_batch_tokens} tokens. Choose a smaller base model, another technique, a lower "
        'training.max_length, or "auto" for training.micro_batch_tokens and training.gradient_checkpointing'
    )


def refused_precision(precision: str, machine: Machine) -> str | None:
    """Why the precision that is asked for cannot be had there."""
    if precision != "bfloat16" or not machine.gpu or machine.bfloat16:
        return None
    return (
        "training.precision is bfloat16, and the GPU cannot compute in it (compute capability 8.0 or newer can). "
        'Give "float32" or "auto"'
    )


def _trained(recipe: ResolvedRecipe, facts: BaseModelFacts) -> int:
    labels = len(recipe.labels.names) if recipe.labels is not None else None
    return trained_parameters(recipe.technique, recipe.method, facts, labels=labels or None)


def _longest_rows(recipe: ResolvedRecipe) -> Workload:
    rows, length = recipe.batch_size * recipe.steps_per_epoch, recipe.max_length
    return Workload(rows=rows, width=1, tokens=rows * length, supervised=rows * length, lengths=(length,))


def _value_bytes(precision: str) -> int:
    return 2 if precision == "bfloat16" else 4
