"""Stored files of models and of saved states, as the database lists them."""

from typing import NotRequired, TypedDict


class Artifact(TypedDict):
    """One file of a model or a checkpoint."""

    name: str
    """Path within the model's folder, with slashes."""
    bytes: int
    sha256: str
    key: str
    """Storage key of the file's object."""


class SavedState(TypedDict):
    """A training's saved state, from which the next attempt resumes."""

    step: int
    prefix: str
    """Prefix of the storage keys of the state's files."""
    before: NotRequired["SavedState | None"]
    """The previous state, which is used if this state is damaged."""
