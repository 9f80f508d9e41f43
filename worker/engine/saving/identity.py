"""The digest that ties a saved state to its recipe.

The digest is computed from the recipe as it was stored. If today's code parsed the recipe and wrote it again, the
result would have every field that was added to recipes since, and no older state would match.
"""

import hashlib
import json
from pathlib import Path

from pydantic_core import to_json

from api.spec.resolve import HARDWARE_FIELDS


def recipe_digest(run: Path) -> str:
    """Return the SHA-256 of the run folder's recipe without the hardware fields, which a later attempt may change to
    fit its memory."""
    recipe = _stored_recipe(run)
    return _digest({name: value for name, value in recipe.items() if name not in HARDWARE_FIELDS})


def matches_recipe(digest: str, run: Path) -> bool:
    """Return whether a state with this digest was saved by the run folder's recipe. The digest of the whole recipe
    matches too, because releases up to schema 6 saved it."""
    return digest in (recipe_digest(run), _digest(_stored_recipe(run)))


def _stored_recipe(run: Path) -> dict[str, object]:
    recipe: dict[str, object] = json.loads((run / "recipe.json").read_bytes())
    return recipe


def _digest(recipe: dict[str, object]) -> str:
    return hashlib.sha256(to_json(recipe)).hexdigest()  # writes numbers as pydantic does for a model
