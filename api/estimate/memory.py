"""The peak memory of a training, part by part.

The parts are those of Rajbhandari et al. 2020 (ZeRO, arXiv:1910.02054, section 3): weights, gradients, the optimizer's
state, and the rest; activations after Korthikanti et al. 2022 (arXiv:2205.05198, section 4). The factors
are fitted to measurements of this trainer (docs/benchmarks.md), since the papers' layers differ from the ones here.
"""

from dataclasses import asdict, dataclass, replace

from api.estimate.activations import ExecutionPlan, activation_bytes
from api.estimate.sampling import key_value_bytes, merged_bytes, sampling_plan
from api.estimate.work import AdaptedExperts, Base, Workload
from api.spec.base_model import BaseModelFacts
from api.spec.resolve import ResolvedRecipe

RUNTIME_CPU = 380 * 2**20
"""Bytes resident before training begins: Python, torch, transformers, peft, and the allocator's reserve."""
RUNTIME_GPU = 700 * 2**20
"""Bytes of CUDA's context and of cuBLAS' workspace."""
HEAP_SLACK = 155 * 2**20
"""Bytes of free blocks that the C library's heap keeps, but no more than the activations and logits take."""
LOGIT_COPIES, LOGIT_COPIES_CPU = 5.0, 3.5
"""Number of copies of a chunk's logits: the matrix product, its float32 form, the log-softmax, and the gradients of the
last two. On a CPU, the heap reuses freed blocks for some of them."""
CHUNK_LOGITS = 1 << 25
"""Number of logits that the loss computes at a time (worker.engine.model.head): 32 M, 128 MB in float32."""
READ_TOKENS, READ_LOGITS = 128, 3
"""READ_TOKENS: number of tokens that worker.score_files puts through the model at a time
(worker.engine.publish.outputs). READ_LOGITS: number of copies of their float32 logits."""
FOUR_BITS = 0.52
"""Bytes of a weight in four bits, including its share of the scales (Dettmers et al. 2023, arXiv:2305.14314)."""


@dataclass(frozen=True)
class MemoryParts:
    """The parts of a training's peak memory, in bytes."""

    runtime: int
    weights: int
    gradients: int
    optimizer: int
    reference: int
    """Copies of the trained weights: the weights of step 0 and, for methods with a reference, the current weights,
    which are set aside while the model has those of step 0."""
    activations: int
    logits: int
    rollout: int
    """Bytes beyond an update's activations that the sampling of answers needs."""
    publishing: int = 0
    """Bytes beyond the training's peak that publishing needs: for the libraries that the trainer still holds, and for
    the process that reads the files before they are published."""

    @property
    def training(self) -> int:
        return self.total - self.publishing

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


def peak_memory(
    recipe: ResolvedRecipe, base: Base, facts: BaseModelFacts, trained: int, train: Workload, plan: ExecutionPlan
) -> MemoryParts:
    technique, value = recipe.technique, plan.value_bytes
    weights = float(base.parameters * value)
    if technique.quantizes:
        weights = base.linear * FOUR_BITS + (base.parameters - base.linear) * value
    # A reward model reads the policy's tokens, so its base is taken to be the policy's.
    weights += sum(use.reads_tokens for use in recipe.method.named_models) * base.parameters * value
    if not plan.gpu:
        # Weights are read in the stored type, or expert by expert, and the heap keeps some of those blocks.
        read = base.parameters if _stored_bytes(facts) != value else base.experts
        weights += read * _stored_bytes(facts)
    # Trained weights are float32: those of an adapter, or a copy of the base if the base is in bfloat16.
    weights += 4 * trained if not technique.whole_model or value == 2 else 0
    tokens = largest_batch(recipe, train, plan.budget)
    overhead = 1.0 if plan.gpu else technique.allocator_overhead
    copied = _copied_keys(recipe, base, facts, train, plan)
    activations = activation_bytes(recipe, base, facts, plan, tokens, overhead=overhead, copied=copied)
    activations += _quadratic(recipe, base, facts, train, tokens, plan)
    activations += _expert_sums(recipe, base, value, recompute=plan.recompute)
    logits = _logits(recipe, base, train, tokens, plan)
    slack = 0 if plan.gpu else min(HEAP_SLACK, int(activations) + logits)
    training = MemoryParts(
        runtime=RUNTIME_GPU if plan.gpu else RUNTIME_CPU + slack,
        weights=int(weights),
        gradients=4 * trained,
        optimizer=8 * trained,
        reference=_reference(recipe, trained, value),
        activations=int(activations),
        logits=logits,
        rollout=max(0, _rollout(recipe, facts, base, train, plan) - int(activations)),
    )
    return replace(training, publishing=max(0, _publishing(recipe, base, facts, trained, plan) - training.total))


def _reference(recipe: ResolvedRecipe, trained: int, value: int) -> int:
    """Return the bytes of the copies of trained weights.

    An adapter's initial weights are kept for the comparison with the base model. A whole model is loaded again for the
    comparison instead, once the optimizer's state has been freed.
    """
    whole, copies = recipe.technique.whole_model, 2 if recipe.method.keeps_reference else 1
    if whole and copies == 1:
        return 0
    return copies * trained * (value if whole else 4)


def _publishing(recipe: ResolvedRecipe, base: Base, facts: BaseModelFacts, trained: int, plan: ExecutionPlan) -> int:
    """Return the bytes of the trainer and of the process that reads the files before they are published, or of the
    trainer alone while it merges the adapter. By then the trainer has freed its model, but not its libraries."""
    technique, value, stored = recipe.technique, plan.value_bytes, _stored_bytes(facts)
    whole = weights = float(base.parameters * value)
    if technique.quantizes:
        weights = base.linear * FOUR_BITS + (base.parameters - base.linear) * value
    adapter = 0 if technique.whole_model else 4 * trained
    merges = technique.merges and (recipe.merged or recipe.gguf is not None)
    # The adapter's files and the merged ones are read one after the other.
    read = max(weights + adapter, whole if merges else 0.0)
    if recipe.method.output == "tokens":
        read += READ_LOGITS * 4 * READ_TOKENS * base.vocabulary
    if plan.gpu:
        return 2 * RUNTIME_GPU + int(read)
    read += base.experts * stored  # experts are read one by one, and then joined in one tensor
    merging = base.parameters * (4 if recipe.gguf is not None else stored) + adapter if merges else 0
    return RUNTIME_CPU + max(RUNTIME_CPU + int(read), merging)


def _quadratic(
    recipe: ResolvedRecipe, base: Base, facts: BaseModelFacts, train: Workload, tokens: float, plan: ExecutionPlan
) -> float:
    """Return the bytes that grow with the square of a row's length, in families whose rows are padded, not packed.

    Fused attention keeps a mask for each layer in the computation's type. Without fused attention, the softmax of each
    head is kept, too, both in float32 and in the computation's type.
    """
    if base.packed and recipe.technique.packable:
        return 0.0
    longest = train.longest + recipe.technique.virtual_tokens
    if (rollout := recipe.method.rollout_options) is not None:
        longest += rollout.max_tokens
    bytes_each = plan.value_bytes
    if facts.get("keeps_scores", False):
        bytes_each += facts.get("heads", 1) * (4 + plan.value_bytes)
    return float(bytes_each * longest * tokens * (1 if plan.recompute else base.layers))


def _copied_keys(
    recipe: ResolvedRecipe, base: Base, facts: BaseModelFacts, train: Workload, plan: ExecutionPlan
) -> float:
    """Return the bytes for each token of the keys and values that are copied for every sequence of a pair because the
    sequences share the tokens of a prompt (worker.engine.model.attention). A pair shares at most the tokens that are
    not supervised."""
    if train.width == 1 or not (base.packed and recipe.technique.packable):
        return 0.0
    shared = (train.tokens - train.supervised) / train.width
    share = shared / max(1.0, train.tokens - (train.width - 1) * shared)
    return train.width * share * key_value_bytes(facts, base, plan)


def _expert_sums(recipe: ResolvedRecipe, base: Base, value: int, *, recompute: bool) -> float:
    """Return the bytes of the experts' tensors with their updates added, which the backward pass reads again, and of
    the gradient of one layer."""
    experts = AdaptedExperts.of(recipe, base)
    return value * ((experts.largest if recompute else experts.size) + experts.largest)


def _stored_bytes(facts: BaseModelFacts) -> int:
    return {"float32": 4, "float64": 8}.get(facts.get("dtype", "float32"), 2)


def largest_batch(recipe: ResolvedRecipe, train: Workload, budget: int) -> float:
    """Return the tokens of the largest micro-batch: the budget, or one row if a row is longer, or a whole step if a
    step is shorter."""
    before = recipe.technique.virtual_tokens
    longest, mean = (train.longest + before) * train.width, train.mean + before * train.width
    rollout = recipe.method.rollout_options
    if rollout is not None:
        longest, mean = longest + rollout.max_tokens, mean + rollout.max_tokens
    step = recipe.batch_size * (rollout.num_generations if rollout else 1) * mean
    whole = budget // max(1.0, mean) * mean  # a row is never split
    return max(longest, min(whole, step))


def _logits(recipe: ResolvedRecipe, base: Base, train: Workload, tokens: float, plan: ExecutionPlan) -> int:
    if recipe.method.output != "tokens":
        return 0
    copies = LOGIT_COPIES if plan.gpu else LOGIT_COPIES_CPU
    share = train.supervised / max(1, train.tokens)
    if not (base.packed and recipe.technique.packable):
        # The model's own logits of every token and their gradient, and the loss's copies of the supervised ones.
        return int(tokens * base.vocabulary * (2 * plan.value_bytes + (copies - 2) * 4 * share))
    if (rollout := recipe.method.rollout_options) is not None:
        # The answers to a prompt share it (worker.engine.model.batches).
        share = rollout.max_tokens / (train.mean / rollout.num_generations + rollout.max_tokens)
    return int(copies * 4 * min(float(CHUNK_LOGITS), share * tokens * base.vocabulary))


def _rollout(recipe: ResolvedRecipe, facts: BaseModelFacts, base: Base, train: Workload, plan: ExecutionPlan) -> int:
    """Return the bytes that sampling needs: the keys and values of a batch of answers, and the merged weights."""
    options = recipe.method.rollout_options
    if options is None:
        return 0
    sampling = sampling_plan(recipe, facts, plan)
    answers = recipe.batch_size * options.num_generations
    tokens = min(
        max(sampling.cache_tokens, train.longest + options.max_tokens), answers * (train.mean + options.max_tokens)
    )
    merged = merged_bytes(recipe, base, plan) if sampling.merges else 0
    return int(key_value_bytes(facts, base, plan) * tokens) + merged
