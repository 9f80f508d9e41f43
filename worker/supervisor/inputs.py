"""What an attempt needs, fetched into its run folder: files, arrays, the base model, the last good state."""

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import structlog

from api.infra.storage import Corrupt, ObjectMissing, Storage
from api.records import base_models
from api.records.base_models import BaseModelRow
from api.records.jobs import Job
from api.spec.artifacts import Artifact, SavedState
from api.spec.file_hash import file_sha256
from worker.supervisor.damage import raise_on_damage
from worker.supervisor.node import Node

log = structlog.get_logger(__name__)

WEIGHTS = ".safetensors"


class BaseModelGone(Exception):
    """The operator removed the base model while the job waited."""


def get_base_model(node: Node, job: Job) -> BaseModelRow:
    with node.context.database.read() as session:
        base = base_models.get(session, job.base_model)
    if base is None:
        raise BaseModelGone(job.base_model)
    return base


def fetch_base(node: Node, base: BaseModelRow) -> Path:
    """The base model's folder in this worker's cache."""
    with raise_on_damaged_base(base):
        return fetch_cached(node, base.digest, base.artifacts)


def raise_on_damaged_base(base: BaseModelRow) -> AbstractContextManager[None]:
    remedy = f"Its operator sees which file by `attune models verify {base.name}`, and has to add it again."
    return raise_on_damage(f"The base model {base.name}", remedy, code="damaged_base_model", param="model")


def fetch_cached(node: Node, digest: str, artifacts: list[Artifact]) -> Path:
    """A model's folder in this worker's cache, fetched once and checked by hash."""
    return fetch_once(node.context.storage, artifacts, cached(node, digest))


def cached(node: Node, digest: str) -> Path:
    return node.cache / "base" / digest


def fetch_once(storage: Storage, artifacts: list[Artifact], folder: Path) -> Path:
    """The artifacts' folder; whoever else wants it meanwhile waits."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if not _is_whole(folder, artifacts):
            _put_away(folder)
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            fetch_artifacts(storage, artifacts, partial)
            partial.rename(folder)
    return folder


def is_damaged(artifacts: list[Artifact], folder: Path) -> bool:
    """Return whether a cached folder has other bytes than were fetched, which sizes may not show; then it goes."""
    with _locked(folder):
        damaged = not _is_whole(folder, artifacts) or any(
            file_sha256(folder / artifact["name"]) != artifact["sha256"] for artifact in artifacts
        )
        if damaged:
            _put_away(folder)
    return damaged


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder.parent / f"{folder.name}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_whole(folder: Path, artifacts: list[Artifact]) -> bool:
    """Whether every file is there in its size. A disk that lost power may have cut what was once verified."""
    try:
        return all((folder / each["name"]).stat().st_size == each["bytes"] for each in artifacts)
    except FileNotFoundError:
        return False


def _put_away(folder: Path) -> None:
    """Out of the way first: whoever has the files open keeps them."""
    if not folder.exists():
        return
    log.warning("cached_copy_damaged", folder=folder.name)
    damaged = folder.with_suffix(".damaged")
    shutil.rmtree(damaged, ignore_errors=True)
    folder.rename(damaged)
    shutil.rmtree(damaged, ignore_errors=True)


def fetch_artifacts(storage: Storage, artifacts: list[Artifact], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for artifact in artifacts:
        path = folder / artifact["name"]
        path.parent.mkdir(exist_ok=True)
        storage.read_file(artifact["key"], path, sha256=artifact["sha256"])


def fetch_tokenizer(node: Node, base: BaseModelRow, folder: Path) -> None:
    """All of the base model but its weights: what prepare needs."""
    with raise_on_damaged_base(base):
        fetch_artifacts(
            node.context.storage, [each for each in base.artifacts if not each["name"].endswith(WEIGHTS)], folder
        )


def fetch_state(storage: Storage, state: SavedState | None, folder: Path) -> int:
    """Fetch the last saved state, or the one before if that is damaged, or none: then the job begins anew. Return its
    step."""
    while state is not None:
        try:
            _fetch_listed(storage, state["prefix"], folder)
            return int(state["step"])
        except (ObjectMissing, Corrupt, ValueError, KeyError):
            log.exception("state_damaged", prefix=state["prefix"])
            shutil.rmtree(folder, ignore_errors=True)
            state = state.get("before")
    return 0


def _fetch_listed(storage: Storage, prefix: str, folder: Path) -> None:
    """A stored folder as its own manifest lists it; the trainer checks the hashes once more."""
    folder.mkdir(parents=True)
    manifest = folder / "manifest.json"
    storage.read_file(f"{prefix}/{manifest.name}", manifest)
    for entry in json.loads(manifest.read_bytes())["files"]:
        path = folder / entry["name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.read_file(f"{prefix}/{entry['name']}", path, sha256=entry["sha256"])
