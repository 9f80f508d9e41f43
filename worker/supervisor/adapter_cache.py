"""A sampler's cache of published models, in the sampler's own folder. The least recently used models are deleted
first."""

import hashlib
import json
import shutil
import threading
from pathlib import Path

from api.infra.storage import Storage
from api.spec.artifacts import Artifact
from worker.supervisor.inputs import fetch_artifacts
from worker.supervisor.model_cache import lacks_room, locked

MAX_BYTES = 20 * 1024**3
"""Maximum size in bytes of all cached models together, if the disk has room for as many. A single model may be larger.
"""


class AdapterCache:
    """Its methods may run in any thread. A fetch of a whole model takes minutes, for which only threads that need the
    same model wait."""

    def __init__(self, storage: Storage, folder: Path) -> None:
        self._storage, self._folder = storage, folder
        self._lock = threading.Lock()
        """Held for changes of the fields below, and for deletions, but not during a fetch."""
        self._sizes: dict[Path, int] = {}
        """Bytes of each folder that is cached or being fetched, the least recently used first."""
        self._used_by: dict[str, Path] = {}
        """Folders that are not deleted to make room, by their users."""
        folder.mkdir()

    def fetch(self, artifacts: list[Artifact], *, user: str) -> Path:
        """Return a folder with these files; fetch them unless they are cached. The folder's name is a hash of their
        names and contents. It is kept until `release(user)`.

        Raises ObjectMissing or ObjectCorrupt if a file in storage is missing or damaged; also StorageUnavailable and
        OSError.
        """
        listed = json.dumps([[artifact["name"], artifact["sha256"]] for artifact in artifacts])
        folder = self._folder / hashlib.sha256(listed.encode()).hexdigest()
        size = sum(artifact["bytes"] for artifact in artifacts)
        with locked(folder):
            with self._lock:
                self._used_by[user] = folder
                cached = folder in self._sizes
                if not cached:
                    self._evict(size)
                self._sizes[folder] = self._sizes.pop(folder, size)
            if not cached:
                self._fetch_whole(artifacts, folder)
        return folder

    def release(self, user: str) -> None:
        with self._lock:
            self._used_by.pop(user, None)

    def _fetch_whole(self, artifacts: list[Artifact], folder: Path) -> None:
        """Fetch the artifacts into the folder, or leave nothing behind."""
        partial = folder.with_suffix(".partial")
        try:
            fetch_artifacts(self._storage, artifacts, partial)
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            with self._lock:
                del self._sizes[folder]
            raise

    def _evict(self, size: int) -> None:
        """Delete the least recently used folders that nobody uses, until `size` more bytes fit into the cache and onto
        the disk."""
        used = set(self._used_by.values())
        for oldest in [folder for folder in self._sizes if folder not in used]:
            if sum(self._sizes.values()) + size <= MAX_BYTES and not lacks_room(self._folder, size):
                break
            del self._sizes[oldest]
            shutil.rmtree(oldest)
