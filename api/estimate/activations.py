"""The activations that a training keeps for the backward pass (after arXiv:2205.05198, section 4)."""

from dataclasses import dataclass

from api.estimate.work import Base
from api.spec.base_model import BaseModelFacts
from api.spec.resolve import ResolvedRecipe

COMPOSED_GELU = frozenset({"gpt2", "phi"})
GELU_COPIES = 4
"""Number of additional copies of a layer's widest activations in the families of COMPOSED_GELU, whose GELU is composed
of many small operations."""
ENCODER_SHARE = 0.75
"""Share of the technique's activation factors that holds for encoders. They keep less, because their norms and
activation functions are single operations, and their feed-forward parts have no gate."""
RECOMPUTED_LAYERS = 3.25
"""Number of layers whose activations exist at the same time if activations are recomputed. The number also covers the
gradients of these layers and the allocator's reserve."""


@dataclass(frozen=True)
class ExecutionPlan:
    """The choices for a training that depend on the machine."""

    gpu: bool
    value_bytes: int
    """Bytes of a weight and of an activation: 2 in bfloat16, 4 in float32."""
    budget: int
    """Tokens of a micro-batch."""
    recompute: bool


def activation_bytes(
    recipe: ResolvedRecipe,
    base: Base,
    facts: BaseModelFacts,
    plan: ExecutionPlan,
    tokens: float,
    *,
    overhead: float = 1.0,
    copied: float = 0.0,
) -> float:
    """Return the bytes of activations that a micro-batch of this many tokens keeps for the backward pass.

    `overhead`: bytes that the allocator holds for each byte of activations. `copied`: bytes of further copies that are
    kept of a token's keys and values in all layers.
    """
    factors, value = recipe.technique.activation_factors, plan.value_bytes
    numbers = float(base.values) * (ENCODER_SHARE if base.encoder else 1)
    activations = (factors.computation * value + factors.float32 * 4) * numbers * tokens
    if facts.get("model_type") in COMPOSED_GELU:
        activations += GELU_COPIES * base.inner * base.layers * value * tokens
    activations = (activations + copied * tokens) * overhead
    if plan.recompute:
        activations = base.layers * base.hidden * value * tokens + RECOMPUTED_LAYERS * activations / max(1, base.layers)
    return activations
