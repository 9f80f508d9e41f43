"""The most memory that a training takes at once, part by part.

The parts are those of Rajbhandari et al. 2020 (ZeRO, arXiv:1910.02054, section 3): weights, gradients, the optimizer's
state, and what is left over; activations after Korthikanti et al. 2022 (arXiv:2205.05198, section 4). Their factors are
fitted to what this trainer was measured to take (docs/benchmarks.md): the papers' layers are not ours.
"""

from dataclasses import asdict, dataclass, replace

from api.estimate.work import AdaptedExperts, Base, Workload
from api.spec.base_model import BaseModelFacts
from api.spec.resolve import ResolvedRecipe

RUNTIME_CPU = 450 * 2**20
"""Resident before anything is trained: Python, torch, transformers, peft, and what the allocator keeps."""
RUNTIME_GPU = 700 * 2**20
"""CUDA's context and cuBLAS' workspace."""
COMPOSED_GELU = frozenset({"gpt2", "phi"})
GELU_COPIES = 4
"""Of the widest values of a layer, kept in these families besides: their GELU is made of many small operations."""
ENCODER_SHARE = 0.75
"""Of those numbers: encoders' norms and activations are single operations, and the feed-forward parts have no gate."""
HEAP_SLACK = 155 * 2**20
"""What the heap holds besides once there is that much to hold."""
RECOMPUTED_LAYERS = 3.25
"""With recomputation: as many layers' activations exist at a time, gradients and what the allocator keeps included."""
LOGIT_COPIES, LOGIT_COPIES_CPU = 5.0, 3.5
"""Of the logits of a chunk: the product, float32, log-softmax, and the gradients of the last two. A CPU's heap finds
room for some in what was freed before."""
CHUNK_LOGITS = 1 << 25
"""Logits that the loss computes at a time (worker.engine.model.head): 32 M, 128 MB in float32."""
READ_TOKENS, READ_LOGITS = 128, 3
"""Tokens that worker.score_files puts through the model at a time (worker.engine.publish.outputs), and copies of their
float32 logits."""
FOUR_BITS = 0.52
"""Bytes of a weight in four bits, with its share of the scales (Dettmers et al. 2023, arXiv:2305.14314)."""


@dataclass(frozen=True)
class MemoryParts:
    """Bytes."""

    runtime: int
    weights: int
    gradients: int
    optimizer: int
    reference: int
    """Copies of what is trained as it was at the beginning, for methods that compare with it."""
    activations: int
    logits: int
    rollout: int
    """Keys and values of the answers that are sampled together."""
    publishing: int = 0
    """What the end takes beyond the training's peak: what is left of the trainer, and the process that reads the files
    which are about to be published."""

    @property
    def training(self) -> int:
        return self.total - self.publishing

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


@dataclass(frozen=True)
class ExecutionPlan:
    """What the machine decides."""

    gpu: bool
    value_bytes: int
    """Of a weight and an activation: 2 in bfloat16, 4 in float32."""
    budget: int
    """Tokens of a micro-batch."""
    recompute: bool


def peak_memory(
    recipe: ResolvedRecipe, base: Base, facts: BaseModelFacts, trained: int, train: Workload, setting: ExecutionPlan
) -> MemoryParts:
    technique, value = recipe.technique, setting.value_bytes
    weights = float(base.parameters * value)
    if technique.quantizes:
        weights = base.linear * FOUR_BITS + (base.parameters - base.linear) * value
    if not setting.gpu:
        # Read in another type, or as single experts that become one tensor, and not all given back.
        read = base.parameters if _stored_bytes(facts) != value else base.experts
        weights += read * _stored_bytes(facts)
    # What is trained is float32: beside the base for adapters; a copy of it where the base is in bfloat16.
    weights += 4 * trained if not technique.whole_model or value == 2 else 0
    tokens = largest_batch(recipe, train, setting.budget)
    factors = technique.activation_factors
    numbers = float(base.values) * (ENCODER_SHARE if base.encoder else 1)
    kept = (factors.computation * value + factors.float32 * 4) * numbers * tokens
    if facts.get("model_type") in COMPOSED_GELU:
        kept += GELU_COPIES * base.inner * base.layers * value * tokens
    kept *= 1 if setting.gpu else technique.allocator_overhead
    if setting.recompute:
        kept = base.layers * base.hidden * value * tokens + RECOMPUTED_LAYERS * kept / max(1, base.layers)
    kept += _squares(recipe, base, facts, train, tokens, setting)
    kept += _sums_with_experts(recipe, base, value, recompute=setting.recompute)
    logits = _logits(recipe, base, train, tokens, setting)
    slack = 0 if setting.gpu else min(HEAP_SLACK, int(kept) + logits)
    training = MemoryParts(
        runtime=RUNTIME_GPU if setting.gpu else RUNTIME_CPU + slack,
        weights=int(weights),
        gradients=4 * trained,
        optimizer=8 * trained,
        reference=2 * trained * (value if technique.whole_model else 4) if recipe.method.keeps_reference else 0,
        activations=int(kept),
        logits=logits,
        rollout=_rollout(recipe, facts, base, train, setting),
    )
    return replace(training, publishing=max(0, _publishing(recipe, base, facts, trained, setting) - training.total))


def _publishing(recipe: ResolvedRecipe, base: Base, facts: BaseModelFacts, trained: int, setting: ExecutionPlan) -> int:
    """Bytes of both processes when the published files are read, or of the trainer when it merges them. It has freed
    its model by then, and keeps its libraries."""
    technique, value, stored = recipe.technique, setting.value_bytes, _stored_bytes(facts)
    whole = weights = float(base.parameters * value)
    if technique.quantizes:
        weights = base.linear * FOUR_BITS + (base.parameters - base.linear) * value
    adapter = 0 if technique.whole_model else 4 * trained
    merges = technique.merges and (recipe.merged or recipe.gguf is not None)
    # The adapter's files and the merged ones are read one after the other.
    read = max(weights + adapter, whole if merges else 0.0)
    if recipe.method.output == "tokens":
        read += READ_LOGITS * 4 * READ_TOKENS * base.vocabulary
    if setting.gpu:
        return 2 * RUNTIME_GPU + int(read)
    read += base.experts * stored  # single experts, until they are one tensor
    merging = base.parameters * (4 if recipe.gguf is not None else stored) + adapter if merges else 0
    return RUNTIME_CPU + max(RUNTIME_CPU + int(read), merging)


def _squares(
    recipe: ResolvedRecipe, base: Base, facts: BaseModelFacts, train: Workload, tokens: float, setting: ExecutionPlan
) -> float:
    """Bytes that grow with the square of a row's length, in families whose rows are padded instead of packed.

    Their fused attention keeps a mask for each layer in the computation's type; where there is none, each head's
    softmax is kept in float32, and once more in that type.
    """
    if base.packed and recipe.technique.packable:
        return 0.0
    longest = train.longest + recipe.technique.virtual_tokens
    if (rollout := recipe.method.rollout_options) is not None:
        longest += rollout.max_tokens
    each = setting.value_bytes
    if facts.get("keeps_scores", False):
        each += facts.get("heads", 1) * (4 + setting.value_bytes)
    return float(each * longest * tokens * (1 if setting.recompute else base.layers))


def _sums_with_experts(recipe: ResolvedRecipe, base: Base, value: int, *, recompute: bool) -> float:
    """Bytes of the tensors of experts with their updates added, which the backward pass reads again, and of a layer's
    gradient."""
    experts = AdaptedExperts.of(recipe, base)
    return value * ((experts.largest if recompute else experts.size) + experts.largest)


def _stored_bytes(facts: BaseModelFacts) -> int:
    return {"float32": 4, "float64": 8}.get(facts.get("dtype", "float32"), 2)


def largest_batch(recipe: ResolvedRecipe, train: Workload, budget: int) -> float:
    """Tokens of the largest micro-batch: the budget, one row if that is longer, or a whole step if that is less."""
    before = recipe.technique.virtual_tokens
    longest, mean = (train.longest + before) * train.width, train.mean + before * train.width
    rollout = recipe.method.rollout_options
    if rollout is not None:
        longest, mean = longest + rollout.max_tokens, mean + rollout.max_tokens
    step = recipe.batch_size * (rollout.num_generations if rollout else 1) * mean
    whole = budget // max(1.0, mean) * mean  # a row is never divided
    return max(longest, min(whole, step))


def _logits(recipe: ResolvedRecipe, base: Base, train: Workload, tokens: float, setting: ExecutionPlan) -> int:
    if recipe.method.output != "tokens":
        return 0
    copies = LOGIT_COPIES if setting.gpu else LOGIT_COPIES_CPU
    share = train.supervised / max(1, train.tokens)
    if not (base.packed and recipe.technique.packable):
        # The model's own logits of every token and their gradient, and what the loss makes of the supervised ones.
        return int(tokens * base.vocabulary * (2 * setting.value_bytes + (copies - 2) * 4 * share))
    if (rollout := recipe.method.rollout_options) is not None:
        share = rollout.max_tokens / max(1.0, train.mean + rollout.max_tokens)
    return int(copies * 4 * min(float(CHUNK_LOGITS), share * tokens * base.vocabulary))


def _rollout(recipe: ResolvedRecipe, facts: BaseModelFacts, base: Base, train: Workload, setting: ExecutionPlan) -> int:
    options = recipe.method.rollout_options
    if options is None:
        return 0
    key_values = facts.get("shapes", {}).get("key_values", base.hidden)
    answers = recipe.batch_size * options.num_generations
    tokens = min(max(setting.budget, train.longest + options.max_tokens), answers * (train.mean + options.max_tokens))
    return int(2 * base.layers * key_values * setting.value_bytes * tokens)
