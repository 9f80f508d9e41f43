"""What was published on base models, in a sampler's own folder: fetched when asked for, kept while there is room."""

import hashlib
import json
import shutil
from pathlib import Path

from api.infra.storage import Storage
from api.spec.artifacts import Artifact
from worker.supervisor.inputs import fetch_artifacts

KEPT_BYTES = 20 * 1024**3
"""What was not asked for longest goes first. A single model may be larger."""


class Adapters:
    def __init__(self, storage: Storage, folder: Path) -> None:
        self._storage, self._folder = storage, folder
        self._kept: dict[Path, int] = {}
        folder.mkdir()

    def fetch(self, artifacts: list[Artifact]) -> Path:
        """The folder of these files. Its name tells what is in it: a model made again is another one.

        Raises ObjectMissing, Corrupt, StorageUnavailable, OSError.
        """
        listed = json.dumps([[each["name"], each["sha256"]] for each in artifacts])
        folder = self._folder / hashlib.sha256(listed.encode()).hexdigest()
        size = sum(each["bytes"] for each in artifacts)
        if folder not in self._kept:
            self._make_room(size)
            partial = self._folder / "partial"
            shutil.rmtree(partial, ignore_errors=True)
            fetch_artifacts(self._storage, artifacts, partial)
            partial.rename(folder)
        self._kept[folder] = self._kept.pop(folder, size)  # the latest stands last
        return folder

    def _make_room(self, size: int) -> None:
        while self._kept and sum(self._kept.values()) + size > KEPT_BYTES:
            oldest = next(iter(self._kept))
            del self._kept[oldest]
            shutil.rmtree(oldest)
