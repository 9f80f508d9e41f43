"""Which objects in the storage a row names: the places where each kind of key is kept."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.records.arrays import Arrays
from api.records.base_models import BaseModelRow
from api.records.files import File
from api.records.jobs import Job
from api.records.models import Checkpoint, Model
from api.records.uploads import UploadPart

Keys = Collection[str]


def named(session: Session, kind: str, keys: Keys) -> set[str]:
    """Of these keys, all of that kind (the first part of each), those that a row names."""
    return FINDERS[kind](session, keys)


def _files(session: Session, keys: Keys) -> set[str]:
    found = session.scalars(select(File.storage_key).where(File.storage_key.in_(keys)))
    return {key for key in found if key is not None}


def _parts(session: Session, keys: Keys) -> set[str]:
    ids = {key.rpartition("/")[2] for key in keys}
    return {part.storage_key for part in session.scalars(select(UploadPart).where(UploadPart.id.in_(ids)))}


def _arrays(session: Session, keys: Keys) -> set[str]:
    made_of = {key.rpartition("/")[2].removesuffix(".safetensors") for key in keys}
    return {found.storage_key for found in session.scalars(select(Arrays).where(Arrays.key.in_(made_of)))}


def _states(session: Session, keys: Keys) -> set[str]:
    states = session.scalars(select(Job.state).where(Job.id.in_(_jobs(keys))))
    kept = [each["prefix"] + "/" for state in states if state for each in (state, state.get("before")) if each]
    return {key for key in keys if key.startswith(tuple(kept))}


def _checkpoints(session: Session, keys: Keys) -> set[str]:
    return _artifacts(session.scalars(select(Checkpoint.artifacts).where(Checkpoint.job_id.in_(_jobs(keys)))))


def _models(session: Session, keys: Keys) -> set[str]:
    return _artifacts(session.scalars(select(Model.artifacts).where(Model.job_id.in_(_jobs(keys)))))


def _bases(session: Session, keys: Keys) -> set[str]:
    return _artifacts(session.scalars(select(BaseModelRow.artifacts)))


def _jobs(keys: Keys) -> set[str]:
    return {key.split("/")[1] for key in keys}


def _artifacts(listed: Iterable[list[Any]]) -> set[str]:
    return {artifact["key"] for artifacts in listed for artifact in artifacts}


FINDERS: Mapping[str, Callable[[Session, Keys], set[str]]] = {
    "files": _files,
    "uploads": _parts,
    "arrays": _arrays,
    "states": _states,
    "checkpoints": _checkpoints,
    "models": _models,
    "base": _bases,
}
"""By the first part of a key. What else may lie in the storage is none of Attune's."""
