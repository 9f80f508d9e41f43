"""How many tokens of a base model's window a job leaves to its rows. Pure."""

from typing import Any

from api.fields import AUTO
from api.methods import Method
from api.recipe import Recipe
from api.techniques import Technique

FEWEST_TOKENS = 8
"""The shortest `training.max_length`."""


def room(method: Method, technique: Technique, context_window: int) -> int:
    """Tokens that a row may have: what is learnt before it, and the answer that is sampled after it, need theirs."""
    options: Any = method.options
    before = getattr(technique, "tokens", 0) if technique.virtual_tokens else 0
    return context_window - before - (options.max_tokens if method.rollouts else 0)


def resolve_max_length(recipe: Recipe, *, longest_row: int, context_window: int) -> int:
    """Tokens per example. Comes first: truncation may drop rows, and every other "auto" counts what is left."""
    asked = recipe.training.max_length
    return min(longest_row if asked == AUTO else asked, room(recipe.method, recipe.technique, context_window))
