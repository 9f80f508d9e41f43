"""Eviction from the cache of models, `cache/base/` in the work folder: base models, whole models, reward models.

All processes with the same work folder share the cache. A model's folder is named after the digest of its files, and
its modification time is the time of its last use. A model to which a run folder links is never deleted.
"""

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

RECENT_S = 3600
"""A model used in the last RECENT_S seconds is kept: the process that fetched it may not have linked it yet."""
KEEP_S = 30 * 24 * 3600
"""A model that was not used for KEEP_S seconds is deleted even if the disk has room. Otherwise the copies of models
that their users have deleted would stay for ever."""
RESERVED_SHARE, RESERVED_BYTES = 0.05, 10 * 1024**3
"""Space that is kept free for run folders: this share of the disk, but at most this many bytes."""
LINKS = ("*/*/base", "*/*/judges/*/*")
"""Patterns of the run folders' links to cached models or their files, relative to the work folder."""


def make_room(cache: Path, needed_bytes: int = 0) -> None:
    """Delete models that were not used for KEEP_S. Then delete the least recently used ones until the disk has
    `needed_bytes` free beside its reserve. Folders of interrupted fetches are deleted by the same rules."""
    used_at = {folder: _used_at(folder) for folder in cache.glob("*") if folder.is_dir()}
    now = time.time()
    for folder in sorted(used_at, key=used_at.__getitem__):
        age_s = now - used_at[folder]
        if age_s > KEEP_S or (age_s > RECENT_S and lacks_room(cache, needed_bytes)):
            _delete_unless_used(folder)


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Lock a model's folder against other processes. Yield False if another one has locked it and `wait` is not set."""
    with (folder.parent / f"{folder.stem}.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def lacks_room(cache: Path, needed_bytes: int) -> bool:
    disk = shutil.disk_usage(cache)
    return disk.free < needed_bytes + min(RESERVED_SHARE * disk.total, RESERVED_BYTES)


def _used_at(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # another process has deleted or renamed it
        return time.time()


def _delete_unless_used(folder: Path) -> None:
    with locked(folder, wait=False) as unused:
        if unused and folder.stem not in _linked(folder.parent) and time.time() - _used_at(folder) > RECENT_S:
            log.info("cached_model_deleted", folder=folder.name)
            shutil.rmtree(folder, ignore_errors=True)


def _linked(cache: Path) -> set[str]:
    """Return the names of the models to which the run folders of any worker link."""
    links = (link for pattern in LINKS for link in cache.parents[1].glob(pattern) if link.is_symlink())
    targets = [link.resolve() for link in links]
    return {target.relative_to(cache).parts[0] for target in targets if target.is_relative_to(cache)}
