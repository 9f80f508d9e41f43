"""A sampler's cache of published models, in the sampler's own folder. The least recently used models are deleted
first."""

import hashlib
import json
import shutil
from collections.abc import Collection
from pathlib import Path

from api.infra.storage import Storage
from api.spec.artifacts import Artifact
from worker.supervisor.inputs import fetch_artifacts

MAX_BYTES = 20 * 1024**3
"""Maximum size in bytes of all cached models together. A single model may be larger."""


class AdapterCache:
    def __init__(self, storage: Storage, folder: Path) -> None:
        self._storage, self._folder = storage, folder
        self._sizes: dict[Path, int] = {}
        """Bytes of each cached folder, the least recently used first."""
        folder.mkdir()

    def fetch(self, artifacts: list[Artifact], *, needed: Collection[Path] = ()) -> Path:
        """Return a folder with these files; fetch them unless they are cached. The folder's name is a hash of their
        names and contents.

        Folders in `needed` are not deleted to make room. Raises ObjectMissing or ObjectCorrupt if a file in storage is
        missing or damaged; also StorageUnavailable and OSError.
        """
        listed = json.dumps([[artifact["name"], artifact["sha256"]] for artifact in artifacts])
        folder = self._folder / hashlib.sha256(listed.encode()).hexdigest()
        size = sum(artifact["bytes"] for artifact in artifacts)
        if folder not in self._sizes:
            self._evict(size, needed)
            partial = self._folder / "partial"
            shutil.rmtree(partial, ignore_errors=True)
            fetch_artifacts(self._storage, artifacts, partial)
            partial.rename(folder)
        self._sizes[folder] = self._sizes.pop(folder, size)
        return folder

    def _evict(self, size: int, needed: Collection[Path]) -> None:
        """Delete the least recently used folders, except those in `needed`, until `size` more bytes fit."""
        for oldest in [folder for folder in self._sizes if folder not in needed]:
            if sum(self._sizes.values()) + size <= MAX_BYTES:
                break
            del self._sizes[oldest]
            shutil.rmtree(oldest)
