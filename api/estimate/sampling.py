"""The memory that sampling answers needs during a training.

Answers are sampled between two updates, when nothing is kept for a backward pass. Sampling may take as many bytes as an
update's activations, so that it hardly adds to the peak.
"""

from dataclasses import dataclass

from api.estimate.activations import ExecutionPlan, activation_bytes
from api.estimate.work import Base
from api.spec.base_model import BaseModelFacts
from api.spec.resolve import ResolvedRecipe

MERGED_SHARE = 0.5
"""Largest share of the bytes for sampling that a copy of the weights may take; the rest is for keys and values."""


@dataclass(frozen=True)
class SamplingPlan:
    budget_tokens: int
    """Maximum number of tokens of one pass over prompts, the same as in a micro-batch."""
    cache_tokens: int
    """Maximum number of tokens of a batch's prompts and answers, whose keys and values are kept."""
    merges: bool
    """Whether the adapter is merged into a copy of the weights that it adapts."""


def sampling_plan(recipe: ResolvedRecipe, facts: BaseModelFacts, plan: ExecutionPlan) -> SamplingPlan:
    base = Base.of(facts)
    free = activation_bytes(recipe, base, facts, plan, plan.budget)
    merged = merged_bytes(recipe, base, plan)
    merges = 0 < merged <= MERGED_SHARE * free
    cached = (free - merged if merges else free) / key_value_bytes(facts, base, plan)
    return SamplingPlan(plan.budget, max(plan.budget, int(cached)), merges)


def merged_bytes(recipe: ResolvedRecipe, base: Base, plan: ExecutionPlan) -> int:
    """Return the bytes of a copy of the weights that the adapter can be merged into; 0 if it cannot be merged."""
    if recipe.technique.quantizes or not recipe.technique.merges:
        return 0
    return (base.linear + base.experts) * plan.value_bytes


def key_value_bytes(facts: BaseModelFacts, base: Base, plan: ExecutionPlan) -> int:
    """Return the bytes of a token's keys and values in all layers."""
    width = facts["shapes"]["key_values"] if facts.get("shapes") else base.hidden
    return max(1, 2 * base.layers * width * plan.value_bytes)
