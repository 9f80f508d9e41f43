"""Stored files of models and trainings, as the records list them."""

from typing import NotRequired, TypedDict


class Artifact(TypedDict):
    """One file of a model or a checkpoint."""

    name: str
    """Path within the model's folder, with slashes."""
    bytes: int
    sha256: str
    key: str
    """Key of its object in storage."""


class SavedState(TypedDict):
    """A training's saved state, from which the next attempt resumes."""

    step: int
    prefix: str
    """The storage keys of its files begin with this."""
    before: NotRequired["SavedState | None"]
    """The state before, which is used if this one is damaged."""
