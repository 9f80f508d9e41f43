"""manifest.json: the files of a published folder, and their provenance.

The trainer writes the manifest. `attune adapters verify` reads it to check that the files are complete and belong
together. The worker signs the manifest when it publishes the folder. The signature proves which installation published
the folder.
"""

import hashlib
import json
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from api.spec.fields import StrictModel

NAME = "manifest.json"
SIGNATURE = "manifest.sig.json"
"""Name of the file with the manifest's signature (api.infra.signatures). Saved states have no signature."""
ORIGIN = "origin.json"
"""Name of the file in a run folder that holds an `Origin` as JSON."""
LOGPROBS = "logprobs.json"
EVALUATION = "evaluation.json"
HOLDS_DATA = frozenset({LOGPROBS, EVALUATION})
"""Files that contain rows of the data. They may be deleted before the folder is shared."""

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def _within(name: str) -> str:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ValueError("is outside the folder")
    return name


class FileEntry(StrictModel):
    name: Annotated[str, AfterValidator(_within)]
    """Path relative to the folder, with slashes."""
    bytes: int
    sha256: Sha256


class BaseEntry(StrictModel):
    name: str
    """The server's name for the base model, or for the fully fine-tuned model that the training started from instead.
    """
    source: str | None = None
    """The hub id, folder or file that the base model was added from."""
    revision: str | None = None
    """Commit of the hub's repository."""
    files: dict[str, Sha256]
    """{file name: SHA-256} of the weight files as their maker published them, and of the config.json that `attune
    models add` wrote."""


class DataEntry(StrictModel):
    """A file of rows."""

    file: str
    """Id of the uploaded file."""
    sha256: Sha256 | None
    rows: int | None
    format: str | None


class ParentAdapter(StrictModel):
    """The adapter that the training continued."""

    model: str
    files: dict[str, Sha256]


class Origin(StrictModel):
    """The names and files that a model was made from. The supervisor writes them to origin.json for the trainer."""

    model: str | None = None
    """Name under which the result is published; checkpoints append `:ckpt-step-N`."""
    base: BaseEntry
    continues: ParentAdapter | None = None
    training: DataEntry | None = None
    validation: DataEntry | None = None
    """None if the job has no validation file. If validation rows were split off the training file, the recipe has their
    share."""


class Code(StrictModel):
    version: str | None
    commit: str | None
    """Git commit, if known. Ends in -dirty if files were changed since that commit."""


class Provenance(StrictModel):
    """The manifest without its list of files."""

    version: Literal[1] = 1
    kind: Literal["adapter", "model", "gguf"]
    """An adapter is loaded on its base model; a model or a GGUF file is loaded alone."""
    job: str
    step: int
    """Training step of these weights."""
    origin: Origin
    recipe: dict[str, object]
    """An `api.spec.resolve.ResolvedRecipe` as JSON, with the values that were used in place of "auto"."""
    recipe_sha256: Sha256
    """`recipe_hash(recipe)`"""
    code: Code
    libraries: dict[str, str]


class Manifest(Provenance):
    files: list[FileEntry]
    """All files except the manifest and its signature, and except files in subfolders that have their own manifest."""


def recipe_hash(recipe: dict[str, object]) -> str:
    """Return the SHA-256 of the recipe as compact JSON with sorted keys."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
