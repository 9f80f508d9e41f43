"""The worker's cache of base measurements (worker.engine.base_measurement), `cache/measured/` in the work folder.

Each project has folders of its own, one for each starting model. A project never gets another one's measurement, not
even of the same rows: the saved time would reveal that somebody else trains on them.
"""

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from api.spec.manifest import ParentAdapter

RUN_FOLDER_LINK = "measured"
"""The run folder's link to the folder of its project and starting model."""
NEW = Path("out", "measured")
"""The folder in which the trainer writes the measurement that it made or used again."""
KEPT = 1000
"""Number of measurements that are kept, the most recently used ones. One takes some kilobytes."""
MAX_BYTES = 1 << 20
"""A larger file is not a measurement."""


def link_measurements(cache: Path, run: Path, *, project_id: str, base: str, continues: ParentAdapter | None) -> None:
    """Link the measurements of earlier jobs of the project that began with the same model into the run folder.

    `base`: digest of the base model's files. `continues`: the adapter on top of it.
    """
    begins_with = [project_id, base, None if continues is None else sorted(continues.files.items())]
    folder = cache / "measured" / hashlib.sha256(json.dumps(begins_with).encode()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    (run / RUN_FOLDER_LINK).symlink_to(folder)


def keep_measurements(cache: Path, run: Path, *, keep_days: float) -> None:
    """Move the trainer's measurement into the cache. Delete measurements that were not used for `keep_days` (0: keep
    them) or exceed KEPT, and folders that this empties. A full disk, or another worker that deletes the same file, is
    no error."""
    for new in (run / NEW).glob("*.json"):
        with suppress(OSError):
            if new.stat().st_size <= MAX_BYTES and not new.is_symlink():
                target = (run / RUN_FOLDER_LINK).resolve()
                target.mkdir(parents=True, exist_ok=True)  # another worker may have deleted it while it was empty
                os.replace(new, target / new.name)
    used_at: dict[Path, float] = {}
    for folder in (cache / "measured").glob("*"):
        with suppress(OSError):  # the files of a folder that has just changed are left for the next time
            used_at |= {file: file.stat().st_mtime for file in folder.glob("*.json")}
    oldest = time.time() - keep_days * 24 * 3600 if keep_days else 0.0
    for number, file in enumerate(sorted(used_at, key=used_at.__getitem__, reverse=True)):
        if number >= KEPT or used_at[file] < oldest:
            with suppress(OSError):
                file.unlink()
                file.parent.rmdir()  # only if it is empty
