"""Overrides of the recipe after an attempt that ran out of memory: a file in the run folder, beside the recipe.

The recipe itself stays as it was first resolved, so that it still matches the states that earlier attempts saved.
"""

import json
from pathlib import Path

from api.spec.resolve import ResolvedRecipe

FILE = "less_memory.json"
FIELDS = ("micro_batch_tokens", "gradient_checkpointing")


def write(run: Path, attempted: ResolvedRecipe, recipe: ResolvedRecipe) -> None:
    """Write the FIELDS of the recipe that this attempt trains, if it differs from the resolved recipe."""
    if attempted != recipe:
        (run / FILE).write_text(json.dumps({name: getattr(attempted, name) for name in FIELDS}))


def read(run: Path, recipe: ResolvedRecipe) -> ResolvedRecipe:
    """Return the recipe that this attempt trains: the resolved recipe with the overrides in the run folder, if there
    are any."""
    path = run / FILE
    return recipe.model_copy(update=json.loads(path.read_bytes())) if path.exists() else recipe
