"""The recipe that a saved state belongs to, known by the bytes that the job stored.

What today's code would write of the same recipe has every new field: no state saved before would belong to it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from api.spec.resolve import HARDWARE_FIELDS


def recipe_digest(run: Path) -> str:
    """SHA-256 of the run folder's recipe, without what a later attempt may change to fit its memory."""
    stored = _stored(run)
    return _digest({name: value for name, value in stored.items() if name not in HARDWARE_FIELDS})


def belongs(digest: str, run: Path) -> bool:
    """Return whether a state with this digest was saved by the run folder's recipe. States of releases up to schema 6
    have that of the whole recipe."""
    return digest in (recipe_digest(run), _digest(_stored(run)))


def _stored(run: Path) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((run / "recipe.json").read_bytes())
    return stored


def _digest(recipe: dict[str, Any]) -> str:
    return hashlib.sha256(to_json(recipe)).hexdigest()  # as pydantic writes a model, numbers included
