"""The work of a training: floating-point operations, and passes through the layers."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Self, cast

from api.estimate.shapes import QUANTIZED, matrices, shapes_of
from api.estimate.stored import StoredWorkload
from api.spec.base_model import EXPERT_KINDS, BaseModelFacts, Matrix, ModelLayers
from api.spec.evaluation import MAX_EXTRA_TOKENS, SHOWN_ROWS, ComparisonLimits
from api.spec.resolve import ResolvedRecipe

EVALUATED_ROWS = 256
"""Maximum number of validation rows of an evaluation, drawn with the job's seed. At the end of an epoch, all rows are
evaluated."""
EXPERT_FLOPS = 90
"""Operations for each weight of adapted experts in each pass. They stand for the time of writing the sum of a weight
and its update, and reading it again."""
PACKED_FAMILIES = frozenset(
    {
        *("gemma2", "gemma3_text", "gpt2", "granite", "llama", "mistral", "olmo2", "phi", "phi3", "qwen2", "qwen3"),
        *("qwen3_moe", "smollm3"),
    }
)
"""Families whose examples are packed in one row, with logits of supervised tokens only (worker.engine.model.families).
"""


@dataclass(frozen=True)
class Workload:
    """The rows of an epoch, after truncation."""

    rows: int
    width: int
    """Number of sequences in a row; 2 for a pair."""
    tokens: int
    supervised: int
    lengths: tuple[int, ...]
    """Quantiles of the length of each row's longest sequence, from the shortest to the longest."""

    @classmethod
    def of(cls, stored: StoredWorkload) -> Self:
        """Return the workload from a job's row."""
        return cls(
            rows=stored["rows"],
            width=stored["width"],
            tokens=stored["tokens"],
            supervised=stored["supervised"],
            lengths=tuple(stored["lengths"]),
        )

    def stored(self) -> StoredWorkload:
        """Return the JSON for a job's row."""
        return cast(StoredWorkload, {**vars(self), "lengths": list(self.lengths)})

    @property
    def longest(self) -> int:
        return max(self.lengths, default=0)

    @property
    def mean(self) -> float:
        """Mean tokens of a row, over all its sequences."""
        return self.tokens / max(1, self.rows)

    @property
    def squares(self) -> float:
        """Mean square length of a sequence."""
        return sum(length**2 for length in self.lengths) / max(1, len(self.lengths))


@dataclass(frozen=True)
class Base:
    """The properties of a base model that determine memory and time."""

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    linear: int
    """Weights of the linear layers, without experts."""
    active: int
    """Weights that compute a token, with two operations each. Experts count only if they are chosen."""
    values: int
    """Number of inputs and outputs of all matrices that compute a token."""
    inner: int
    """Number of outputs of the widest matrix."""
    head: int
    """Weights of the output head."""
    packed: bool
    encoder: bool
    matrices: tuple[Matrix, ...] = ()
    """The matrices that an adapter may be placed beside."""
    experts: int = 0
    """Weights of all experts."""

    @classmethod
    def of(cls, facts: BaseModelFacts) -> "Base":
        shapes, _ = shapes_of(facts)
        layers = tuple(matrices(shapes))
        linear = [matrix for matrix in layers if matrix.kind in QUANTIZED]
        inside = [matrix for matrix in layers if matrix.kind in QUANTIZED or matrix.kind in EXPERT_KINDS]
        hidden, vocabulary = facts.get("hidden_size", 0), facts.get("vocab_size", 0)
        return cls(
            parameters=facts["parameters"],
            layers=facts.get("layers", 1),
            hidden=hidden,
            vocabulary=vocabulary,
            linear=sum(matrix.size for matrix in linear),
            active=sum(matrix.active_size for matrix in inside),
            values=sum(matrix.active * (matrix.inputs + matrix.outputs) for matrix in inside),
            inner=max((matrix.outputs for matrix in inside), default=0),
            head=hidden * vocabulary,
            packed=facts.get("model_type") in PACKED_FAMILIES,
            encoder=facts.get("kind") == "encoder",
            matrices=layers,
            experts=sum(matrix.size for matrix in layers if matrix.experts > 1),
        )


@dataclass(frozen=True)
class AdaptedExperts:
    """Expert tensors with a low-rank update. Weight plus update is computed for every expert, also for those that no
    token is routed to."""

    trained: int = 0
    """Number of weights in the updates."""
    used: int = 0
    """Number of the experts' weights that one token is multiplied by: those of the experts that the router chooses for
    it."""
    size: int = 0
    """Number of weights in the tensors."""
    largest: int = 0
    """Largest number of weights in the tensors of one layer."""
    by_rank: int = 0
    """Sum over the tensors: number of weights times the rank of their update."""

    @classmethod
    def of(cls, recipe: ResolvedRecipe, base: Base) -> "AdaptedExperts":
        if not any(matrix.kind == "experts" for matrix in base.matrices):
            return cls()
        layers = ModelLayers(base.matrices, scores=recipe.method.output != "tokens")
        every = recipe.technique.low_rank_updates(layers)
        updates = [update for update in every if update.matrix.kind == "experts"]
        in_layer: Counter[str] = Counter()
        for update in updates:
            in_layer[update.matrix.name.rpartition(".")[0]] += update.matrix.size
        return cls(
            trained=sum(update.parameters for update in updates),
            used=sum(update.matrix.active_size for update in updates),
            size=in_layer.total(),
            largest=max(in_layer.values(), default=0),
            by_rank=sum(update.rank * update.matrix.size for update in updates),
        )


@dataclass(frozen=True)
class ComputeCost:
    flops: float
    passes: float
    """Number of times that a micro-batch passes through one layer, forward or backward. It determines the time of small
    micro-batches."""


def training_work(
    recipe: ResolvedRecipe, base: Base, trained: int, train: Workload, validation: Workload | None, budget: int
) -> ComputeCost:
    """Return the work of all steps and evaluations. `budget`: tokens of a micro-batch.

    A forward pass takes two operations for each weight and token, and 2 · layers · hidden · T² for causal attention; a
    backward pass as many for the inputs' gradients, and as many again for the weights' where they are trained (Kaplan
    et al. 2020, arXiv:2001.08361, appendix B; Hoffmann et al. 2022, arXiv:2203.15556, appendix F).
    """
    rows = min(recipe.batch_size, train.rows)
    share = recipe.total_steps * rows / max(1, train.rows)
    forward = _forward(recipe, base, train)
    experts = AdaptedExperts.of(recipe, base)
    tokens = _tokens(recipe, train)
    weights = forward
    if not recipe.technique.whole_model:
        weights = 6.0 * (trained - experts.trained) * tokens + 2.0 * experts.used * tokens
    recomputed = forward if recipe.gradient_checkpointing is True else 0.0
    batches = math.ceil(rows * train.mean / max(budget, train.longest * train.width)) * recipe.total_steps
    rounds = (3.0 if recipe.gradient_checkpointing is True else 2.0) * batches
    flops = share * (2 * forward + weights + recomputed)
    extra = _references(recipe, forward, train, share)
    flops, rounds = flops + extra * forward, rounds + extra * train.rows * train.mean / max(1, budget)
    sampled = _sampling(recipe, base, rows, train)
    flops, rounds = flops + sampled.flops, rounds + sampled.passes
    if validation is not None and validation.rows:
        few = min(EVALUATED_ROWS, validation.rows) * (recipe.total_steps // (recipe.eval_every or recipe.total_steps))
        whole = validation.rows * math.ceil(recipe.total_steps / recipe.steps_per_epoch)
        times = (few + whole) / validation.rows
        flops += times * _forward(recipe, base, validation)
        rounds += times * math.ceil(validation.tokens / max(1, budget))
    compared = _comparison(recipe, base, train, validation, budget)
    flops, rounds = flops + compared.flops, rounds + compared.passes
    flops += recipe.technique.flops_per_pass * base.linear * rounds
    # For each weight of an expert and each rank: two operations forward, four backward.
    flops += (EXPERT_FLOPS * experts.size + 3.0 * experts.by_rank) * rounds
    return ComputeCost(flops, rounds * base.layers)


def _tokens(recipe: ResolvedRecipe, rows: Workload) -> float:
    """Return the tokens of an epoch, including the virtual tokens before each sequence."""
    return rows.tokens + recipe.technique.virtual_tokens * rows.rows * rows.width


def _forward(recipe: ResolvedRecipe, base: Base, rows: Workload) -> float:
    tokens = _tokens(recipe, rows)
    predicted = 0.0
    if recipe.method.output == "tokens":
        predicted = rows.supervised if base.packed and recipe.technique.packable else tokens
    attention = 2.0 * base.layers * base.hidden * rows.squares * rows.rows * rows.width
    return 2.0 * base.active * tokens + 2.0 * base.head * predicted + attention


def _references(recipe: ResolvedRecipe, forward: float, train: Workload, share: float) -> float:
    """Return the number of additional forward passes over all training rows: those for the reference, at most once for
    each row, and the method's extra passes over the rows of each step."""
    method = recipe.method
    return method.reference_passes * min(1.0, share) + method.extra_passes * share


def _comparison(
    recipe: ResolvedRecipe, base: Base, train: Workload, validation: Workload | None, budget: int
) -> ComputeCost:
    """Return the work of comparing the model before and after the training: metrics of a few rows, and sample answers
    of both."""
    validates = validation is not None and validation.rows > 0
    rows = validation if validation is not None and validates else train
    rollout = recipe.method.rollout_options
    limits = ComparisonLimits.of(
        trained_rows=recipe.total_steps * min(recipe.batch_size, train.rows),
        mean_tokens=train.mean,
        validates=validates,
        rollouts=rollout is not None,
    )
    length = limits.answer_tokens if rollout is None else rollout.max_tokens
    few = min(rows.rows, limits.rows, max(1, int(limits.tokens / max(1.0, rows.mean))))
    flops = _forward(recipe, base, rows) * few / max(1, rows.rows)
    passes = float(math.ceil(few * rows.mean / max(1, budget)))
    if recipe.method.output == "tokens":
        answer = rows.supervised / max(1, rows.rows * rows.width)
        drawn = min(length, answer + MAX_EXTRA_TOKENS)
        asked = few if rollout is not None else min(SHOWN_ROWS, few)
        flops += 2.0 * (base.active + base.head) * asked * (max(0.0, rows.mean / rows.width - answer) + drawn)
        passes += drawn
    return ComputeCost(2 * flops, 2 * passes)


def _sampling(recipe: ResolvedRecipe, base: Base, prompts: int, train: Workload) -> ComputeCost:
    """Return the work of sampling answers token by token, and of the passes over them."""
    options = recipe.method.rollout_options
    if options is None:
        return ComputeCost(0.0, 0.0)
    answers = prompts * options.num_generations
    each = train.mean + options.max_tokens
    token_passes = 3 + 3 * options.passes
    flops = recipe.total_steps * answers * each * (1 + token_passes) * 2.0 * (base.active + base.head)
    return ComputeCost(flops, recipe.total_steps * (options.max_tokens + token_passes))
