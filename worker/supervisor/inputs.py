"""The inputs of an attempt: base models, artifacts and saved states, fetched from storage."""

import json
import os
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

import structlog

from api.infra.storage import ObjectCorrupt, ObjectMissing, Storage
from api.records import base_models
from api.records.base_models import BaseModelRow
from api.records.jobs import Job
from api.spec.artifacts import Artifact, SavedState
from api.spec.file_hash import file_sha256
from worker.supervisor.damage import raise_on_damage
from worker.supervisor.model_cache import locked, make_room
from worker.supervisor.node import Node

log = structlog.get_logger(__name__)


class BaseModelGone(Exception):
    """The operator removed the base model after the job was created."""


def get_base_model(node: Node, job: Job) -> BaseModelRow:
    with node.context.database.read() as session:
        base = base_models.get(session, job.base_model)
    if base is None:
        raise BaseModelGone(job.base_model)
    return base


def fetch_base(node: Node, base: BaseModelRow) -> Path:
    """Return the base model's folder in this worker's cache. It is fetched if it is not there."""
    with raise_on_damaged_base(base):
        return fetch_cached(node, base.digest, base.artifacts)


def raise_on_damaged_base(base: BaseModelRow) -> AbstractContextManager[None]:
    remedy = f"The operator can find the file with `attune models verify {base.name}` and must add the model again."
    return raise_on_damage(f"The base model {base.name}", remedy, code="damaged_base_model", param="model")


def fetch_cached(node: Node, digest: str, artifacts: list[Artifact]) -> Path:
    """Return a model's folder in this worker's cache. It is fetched if it is not there, and its files are then checked
    by hash."""
    return fetch_once(node.storage, artifacts, cache_folder(node, digest))


def cache_folder(node: Node, digest: str) -> Path:
    return node.cache / "base" / digest


def fetch_once(storage: Storage, artifacts: list[Artifact], folder: Path) -> Path:
    """Fetch the artifacts into the folder unless it already contains them. Other processes that need the folder wait
    meanwhile."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if not _is_complete(folder, artifacts):
            _discard(folder)
            _fetch_whole(storage, artifacts, folder)
        os.utime(folder)  # the time of its last use
    return folder


def _fetch_whole(storage: Storage, artifacts: list[Artifact], folder: Path) -> None:
    """Make room for the artifacts and fetch them into the folder, or leave nothing behind."""
    make_room(folder.parent, sum(artifact["bytes"] for artifact in artifacts))
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        fetch_artifacts(storage, artifacts, partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.rename(folder)


def discard_if_damaged(artifacts: list[Artifact], folder: Path) -> bool:
    """Hash every file of a cached folder. If a file differs from its artifact, delete the folder and return True."""
    with locked(folder):
        damaged = not _is_complete(folder, artifacts) or any(
            file_sha256(folder / artifact["name"]) != artifact["sha256"] for artifact in artifacts
        )
        if damaged:
            _discard(folder)
    return damaged


def _is_complete(folder: Path, artifacts: list[Artifact]) -> bool:
    """Return whether each file has its artifact's size. Contents were verified when they were fetched, but a disk that
    lost power may have truncated files since."""
    try:
        return all((folder / artifact["name"]).stat().st_size == artifact["bytes"] for artifact in artifacts)
    except FileNotFoundError:
        return False


def _discard(folder: Path) -> None:
    """Rename the folder, then delete it. Processes that have its files open can still read them."""
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
    """Fetch the base model's files except its weights, which prepare does not need."""
    with raise_on_damaged_base(base):
        fetch_artifacts(node.storage, base.files_without_weights, folder)


def fetch_state(storage: Storage, state: SavedState | None, folder: Path) -> int:
    """Fetch the last saved state or, if it is damaged, the state before it. Return the step of the fetched state.

    If both are damaged, return 0: the job starts over.
    """
    while state is not None:
        try:
            _fetch_manifest_files(storage, state["prefix"], folder)
            return int(state["step"])
        except (ObjectMissing, ObjectCorrupt, ValueError, KeyError):
            log.exception("state_damaged", prefix=state["prefix"])
            shutil.rmtree(folder, ignore_errors=True)
            state = state.get("before")
    return 0


def _fetch_manifest_files(storage: Storage, prefix: str, folder: Path) -> None:
    """Fetch the files that the manifest of a stored folder lists. The trainer checks their hashes again."""
    folder.mkdir(parents=True)
    manifest = folder / "manifest.json"
    storage.read_file(f"{prefix}/{manifest.name}", manifest)
    for entry in json.loads(manifest.read_bytes())["files"]:
        path = folder / entry["name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.read_file(f"{prefix}/{entry['name']}", path, sha256=entry["sha256"])
