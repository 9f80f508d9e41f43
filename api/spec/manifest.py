"""manifest.json: what a published folder consists of, and what it was made from. Written by the trainer, read by
`attune adapters verify`.

It proves that files are whole and belong together, not who made them: it carries no signature.
"""

import hashlib
import json
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from api.spec.fields import StrictModel

NAME = "manifest.json"
ORIGIN = "origin.json"
"""In a run folder: an `Origin`."""
LOGPROBS = "logprobs.json"
EVALUATION = "evaluation.json"
HOLDS_DATA = frozenset({LOGPROBS, EVALUATION})
"""Files with rows of the data in them, which one may leave out when one shares the rest."""

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def _within(name: str) -> str:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ValueError("is not within the folder")
    return name


class FileEntry(StrictModel):
    name: Annotated[str, AfterValidator(_within)]
    """Within the folder, with slashes."""
    bytes: int
    sha256: Sha256


class BaseEntry(StrictModel):
    name: str
    """The server's name of the weights: a base model, or the fully fine-tuned one that stood in for it."""
    source: str | None = None
    """The hub id, folder or file that it was added from."""
    revision: str | None = None
    """The hub's commit."""
    files: dict[str, Sha256]
    """Its weights (as they were published) and its config.json (which `attune models add` tidies)."""


class DataEntry(StrictModel):
    """A file of rows."""

    file: str
    """Its id."""
    sha256: Sha256 | None
    rows: int | None
    format: str | None


class ParentAdapter(StrictModel):
    """The adapter that training began from."""

    model: str
    files: dict[str, Sha256]


class Origin(StrictModel):
    """What the supervisor knows and the trainer does not: origin.json in the run folder."""

    model: str | None = None
    """The name under which the result is published; of checkpoints it gets `:ckpt-step-N`."""
    base: BaseEntry
    continues: ParentAdapter | None = None
    training: DataEntry | None = None
    validation: DataEntry | None = None
    """None where there is no such file; the recipe tells of a split."""


class Code(StrictModel):
    version: str | None
    commit: str | None
    """Of git, where it is known; ends in -dirty if files were changed since."""


class Provenance(StrictModel):
    """All of a manifest but its files."""

    version: Literal[1] = 1
    kind: Literal["adapter", "model", "gguf"]
    """model: loads by itself."""
    job: str
    step: int
    """Whose weights these are."""
    origin: Origin
    recipe: dict[str, Any]
    """api.spec.resolve.ResolvedRecipe: "auto" replaced by what was used."""
    recipe_sha256: Sha256
    """`recipe_hash(recipe)`"""
    code: Code
    libraries: dict[str, str]


class Manifest(Provenance):
    files: list[FileEntry]
    """All but the manifest itself, and but folders that have their own."""


def recipe_hash(recipe: dict[str, Any]) -> str:
    """Of the recipe as compact JSON with sorted keys."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
