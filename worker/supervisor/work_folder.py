"""A worker's place: the lock that makes a work folder its own, its identity, and what is broken there."""

import errno
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import IO

ID_BYTES = 12
LEAST_FREE_BYTES = 64 * 1024**2
"""Less than this, or a hundredth of a small disk, is a full disk: no job could even begin."""


def identity_of(file: Path) -> str:
    """Return the random id that the file holds, which is made with it: it stays the same over restarts.

    The file also names its own inode, so that a copy of a work folder, as in another machine's image, is somebody else.
    """
    try:
        known = json.loads(file.read_bytes())
        if known["inode"] == file.stat().st_ino:
            return str(known["id"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    identity = secrets.token_hex(ID_BYTES)
    partial = file.with_suffix(".partial")
    with partial.open("w") as new:
        json.dump({"id": identity, "inode": os.fstat(new.fileno()).st_ino}, new)
        new.flush()
        os.fsync(new.fileno())
    partial.rename(file)
    return identity


def trouble_with(folder: Path, lock: IO[bytes], *, thorough: bool) -> str | None:
    """Name what keeps the folder from being worked in, or return None. Makes it again if it alone was removed.

    thorough: write into it, too.
    """
    lock_file = folder.with_name(f"{folder.name}.lock")
    try:
        if lock_file.stat().st_ino != os.fstat(lock.fileno()).st_ino:
            return "The worker's folder was replaced while it ran: restart the worker"
        folder.mkdir(exist_ok=True)
        disk = shutil.disk_usage(folder)
        if disk.free < min(LEAST_FREE_BYTES, disk.total // 100):
            return "The worker's disk is full"
        if thorough:
            _write_into(folder)
    except FileNotFoundError:
        return "The worker's folder is gone: restore it, or restart the worker"
    except OSError as error:
        return f"The worker's folder cannot be written to ({errno.errorcode.get(error.errno or 0, 'unknown error')})"
    return None


def _write_into(folder: Path) -> None:
    probe = folder / ".probe"
    try:
        probe.write_bytes(bytes(4096))
    finally:
        probe.unlink(missing_ok=True)


def filled_by(folder: Path) -> bool:
    """Return whether this folder holds most of what its disk can: then it is what filled the disk."""
    try:
        used = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
        return used > shutil.disk_usage(folder).total / 2
    except OSError:
        return False
