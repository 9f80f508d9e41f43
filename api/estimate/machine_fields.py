"""The fields of a recipe that depend on the machine (precision, micro-batch, recomputation), and the predicted memory
and time of the training there.

The same prediction resolves a recipe before training, accepts or refuses a job, and answers an estimate.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TypedDict, cast

from api.estimate.activations import ExecutionPlan
from api.estimate.memory import MemoryParts, largest_batch, peak_memory
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
"""Share of the machine's memory that a training may be predicted to need. The rest is a margin: most predictions are
within 15 % (docs/benchmarks.md), and allocators fragment. A training that needs more gets a smaller micro-batch, or
recomputes activations."""
HALVINGS = 3
"""How often the usual micro-batch may be halved before activations are recomputed instead. A trainer that runs out of
memory halves its micro-batch at most as often."""
LESS = 0.75
"""Share of the memory that may be predicted for the attempt after one that ran out of memory. The share is taken of the
machine's memory, or of the failed attempt's prediction if that is lower."""


@dataclass(frozen=True)
class Machine:
    gpu: bool
    bfloat16: bool
    """Whether the machine multiplies in bfloat16 at least as fast as in float32."""
    memory_bytes: int | None
    """Memory for one job: the GPU's, or the main memory of a machine without a GPU. None if unknown."""
    observed: Observations | None = None


@dataclass(frozen=True)
class Prediction:
    precision: str
    gradient_checkpointing: bool
    micro_batch_tokens: int
    trained_parameters: int
    memory: MemoryParts
    fits: bool | None
    """Whether the machine has enough memory; None if its memory is unknown."""
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
    """Return whether activations can be recomputed. The facts of base models that an earlier release added do not
    record this; such models are assumed to allow it."""
    return technique.recomputes and bool(facts.get("recomputes", True))


def resolve_hardware_auto(
    recipe: ResolvedRecipe, facts: BaseModelFacts, machine: Machine, train: Workload | None = None
) -> ResolvedRecipe:
    """Return the recipe with values for the remaining "auto" fields. `train`: the training rows; if None, all rows are
    assumed to have the maximum length.

    The largest micro-batch that fits is chosen: first without recomputation, down to an eighth of the usual size; then
    with recomputation, down to the longest row. If none fits, the one that needs least memory is chosen.
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
    sizes = (
        MicroBatchSizes.of(recipe, rows, tokens)
        if recipe.micro_batch_tokens == "auto"
        else MicroBatchSizes(tokens, tokens, tokens)
    )
    recomputes = (False, True) if may_recompute(recipe.technique, facts) else (False,)
    if recipe.gradient_checkpointing != "auto":
        recomputes = (recipe.gradient_checkpointing,)
    limit = math.inf if machine.memory_bytes is None else COMFORTABLE_SHARE * machine.memory_bytes
    chosen = _largest(sizes, recomputes, limit, _memory_needed(recipe, facts, rows, machine))
    return recipe.model_copy(update=chosen)


def with_less_memory(
    resolved: ResolvedRecipe, facts: BaseModelFacts, machine: Machine, train: Workload, *, recomputes: bool
) -> ResolvedRecipe | None:
    """Return the recipe for another attempt after one that ran out of memory; None if no choice needs less memory.

    The recipe has the largest micro-batch that is predicted to need at most three quarters of the memory, without
    recomputation if possible. `recomputes`: whether the next attempt may recompute activations even if the failed one
    did not.
    """
    assert resolved.micro_batch_tokens != "auto", resolved
    assert resolved.gradient_checkpointing != "auto", resolved
    tokens, recompute = resolved.micro_batch_tokens, resolved.gradient_checkpointing
    needed = _memory_needed(resolved, facts, train, machine)
    kinds = (False, True) if recomputes and not recompute else (recompute,)
    before = needed(recompute, tokens)
    limit = LESS * min(before, machine.memory_bytes or before)
    chosen = _largest(MicroBatchSizes.of(resolved, train, tokens), kinds, limit, needed)
    less = needed(chosen["gradient_checkpointing"], chosen["micro_batch_tokens"]) < before
    return resolved.model_copy(update=chosen) if less else None


class MicroBatch(TypedDict):
    """The fields of a ResolvedRecipe that decide the memory of a micro-batch."""

    micro_batch_tokens: int
    gradient_checkpointing: bool


@dataclass(frozen=True)
class MicroBatchSizes:
    """Sizes of micro-batches to choose from, in tokens."""

    largest: int
    eighth: int
    """An eighth of the largest size that the rows fill."""
    smallest: int
    """The length of the longest row, because a row is never split."""

    @classmethod
    def of(cls, recipe: ResolvedRecipe, rows: Workload, largest: int) -> "MicroBatchSizes":
        longest, filled = (math.ceil(largest_batch(recipe, rows, budget)) for budget in (1, largest))
        smallest = min(longest, largest)
        return cls(largest, max(smallest, min(filled, largest) >> HALVINGS), smallest)


def _largest(
    sizes: MicroBatchSizes, recomputes: Sequence[bool], limit: float, needed: Callable[[bool, int], int]
) -> MicroBatch:
    """Return the largest micro-batch that needs at most `limit` bytes, or the one that needs least if none does.

    Without recomputation, sizes from `sizes.eighth` up are tried, because smaller ones are much slower. With
    recomputation, sizes from `sizes.smallest` up are tried. If only one of the two is allowed, sizes from
    `sizes.smallest` up are tried.
    """
    for recompute in recomputes:
        least = sizes.smallest if recompute == recomputes[-1] else sizes.eighth
        if needed(recompute, least) <= limit:
            # Memory grows with the tokens, so bisection finds the largest size that fits.
            tried = range(least, sizes.largest + 1)
            found = bisect_right(tried, limit, key=partial(needed, recompute))
            return {"micro_batch_tokens": tried[found - 1], "gradient_checkpointing": recompute}
    least_of = min(recomputes, key=lambda recompute: needed(recompute, sizes.smallest))
    return {"micro_batch_tokens": sizes.smallest, "gradient_checkpointing": least_of}


def _memory_needed(
    recipe: ResolvedRecipe, facts: BaseModelFacts, rows: Workload, machine: Machine
) -> Callable[[bool, int], int]:
    """Return a function of (recomputation, tokens of a micro-batch) that returns the predicted bytes of the training.

    The memory for publishing is left out, because it does not depend on the micro-batch.
    """
    base, trained, value = Base.of(facts), _trained(recipe, facts), _value_bytes(recipe.precision)

    def needed(recompute: bool, tokens: int) -> int:
        return peak_memory(
            recipe, base, facts, trained, rows, ExecutionPlan(machine.gpu, value, tokens, recompute)
        ).training

    return needed


def predict(
    recipe: ResolvedRecipe, facts: BaseModelFacts, train: Workload, validation: Workload | None, machine: Machine
) -> Prediction:
    """Return the prediction for this machine. Raise api.spec.target_modules.NoTargetModules if the technique has no
    layers to adapt in the base model."""
    resolved = resolve_hardware_auto(recipe, facts, machine, train)
    assert resolved.micro_batch_tokens != "auto", resolved
    assert resolved.gradient_checkpointing != "auto", resolved
    value, budget = _value_bytes(resolved.precision), resolved.micro_batch_tokens
    base, trained = Base.of(facts), _trained(resolved, facts)
    plan = ExecutionPlan(machine.gpu, value, budget, resolved.gradient_checkpointing)
    memory = peak_memory(resolved, base, facts, trained, train, plan)
    work = training_work(resolved, base, trained, train, validation, budget)
    speed = speed_of(machine.observed, gpu=machine.gpu, precision=str(resolved.precision))
    training_s = speed.training_s(work)
    return Prediction(
        precision=str(resolved.precision),
        gradient_checkpointing=resolved.gradient_checkpointing,
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
    """Return why the machine cannot train in the requested precision; None if it can."""
    if precision != "bfloat16" or not machine.gpu or machine.bfloat16:
        return None
    return (
        "training.precision is bfloat16, which the GPU does not support (compute capability 8.0 or newer does). "
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
