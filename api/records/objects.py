"""Storage keys that rows refer to. The first part of a key is the kind of the object, such as `files`."""

from collections.abc import Callable, Collection, Iterable, Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.records import installation
from api.records.arrays import Arrays
from api.records.base_models import BaseModelRow
from api.records.files import File
from api.records.installation import MARKER
from api.records.job_queue import Attempt, log_key
from api.records.jobs import Job
from api.records.models import Checkpoint, Model
from api.records.uploads import PENDING, Upload, UploadPart
from api.spec.artifacts import Artifact
from api.spec.lifecycle import UNFINISHED

Keys = Collection[str]


def referenced(session: Session, kind: str, keys: Keys) -> set[str]:
    """Return the given keys that a row refers to. All of them have to be of this kind."""
    return FINDERS[kind](session, keys)


def _files(session: Session, keys: Keys) -> set[str]:
    referenced = session.scalars(select(File.storage_key).where(File.storage_key.in_(keys)))
    return {key for key in referenced if key is not None}


def _parts(session: Session, keys: Keys) -> set[str]:
    ids = {key.rpartition("/")[2] for key in keys}
    return {part.storage_key for part in session.scalars(select(UploadPart).where(UploadPart.id.in_(ids)))}


def _arrays(session: Session, keys: Keys) -> set[str]:
    hashes = {key.rpartition("/")[2].removesuffix(".safetensors") for key in keys}
    return {arrays.storage_key for arrays in session.scalars(select(Arrays).where(Arrays.key.in_(hashes)))}


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


def named(session: Session) -> dict[str, str | None]:
    """Return the keys of all objects that rows refer to, each with its SHA-256 if a row holds it.

    The objects of saved states have no rows of their own: `saved_states` returns their prefixes.
    """
    keys: dict[str, str | None] = {}
    for key, sha256 in session.execute(select(File.storage_key, File.sha256).where(File.storage_key.is_not(None))):
        keys[str(key)] = sha256
    pending = select(UploadPart).join(Upload, Upload.id == UploadPart.upload_id).where(Upload.status == PENDING)
    for part in session.scalars(pending):
        keys[part.storage_key] = part.sha256
    for arrays in session.scalars(select(Arrays)):
        keys[arrays.storage_key] = arrays.sha256
    for column in (Checkpoint.artifacts, Model.artifacts, BaseModelRow.artifacts):
        for artifacts in session.scalars(select(column)):
            keys |= {artifact["key"]: artifact["sha256"] for artifact in artifacts}
    if installation.storage_id(session) is not None:
        keys[MARKER] = None
    logs = select(Attempt.job_id, Attempt.fence).where(Attempt.log_bytes.is_not(None))
    return keys | {log_key(job_id, fence): None for job_id, fence in session.execute(logs)}


def saved_states(session: Session) -> list[str]:
    """Return the prefixes of the saved states that jobs may resume from."""
    states = session.scalars(select(Job.state).where(Job.state.is_not(None), Job.status.in_(UNFINISHED)))
    return [each["prefix"] for state in states if state for each in (state, state.get("before")) if each]


def _jobs(keys: Keys) -> set[str]:
    return {key.split("/")[1] for key in keys}


def _artifacts(listed: Iterable[list[Artifact]]) -> set[str]:
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
"""For each kind of object, the function that returns which of the given keys a row refers to. Objects of other kinds
are never taken for orphans (api.services.orphans)."""
