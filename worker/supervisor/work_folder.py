"""A worker's folder: its stored id, and checks of its lock and its disk."""

import errno
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import IO

ID_BYTES = 12
MIN_FREE_BYTES = 64 * 1024**2
"""A disk with less free space counts as full, because no job could start. On a small disk, the limit is a hundredth of
its size."""


def read_or_create_id(file: Path) -> str:
    """Return the random id in the file, or write a new one. The id survives restarts.

    The file also holds its own inode number, so that a copy of the file, as in a cloned machine's image, gets a new id.
    """
    try:
        stored = json.loads(file.read_bytes())
        if stored["inode"] == file.stat().st_ino:
            return str(stored["id"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    new_id = secrets.token_hex(ID_BYTES)
    partial = file.with_suffix(".partial")
    with partial.open("w") as new:
        json.dump({"id": new_id, "inode": os.fstat(new.fileno()).st_ino}, new)
        new.flush()
        os.fsync(new.fileno())
    partial.rename(file)
    return new_id


def find_folder_problem(folder: Path, lock: IO[bytes], *, thorough: bool) -> str | None:
    """Return what makes the folder unusable, or None. A deleted folder is created again if its parent still exists.

    `thorough`: also write a file.
    """
    lock_file = folder.with_name(f"{folder.name}.lock")
    try:
        if lock_file.stat().st_ino != os.fstat(lock.fileno()).st_ino:
            return "The worker's folder was replaced while the worker ran: restart the worker"
        folder.mkdir(exist_ok=True)
        disk = shutil.disk_usage(folder)
        if disk.free < min(MIN_FREE_BYTES, disk.total // 100):
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


def fills_disk(folder: Path) -> bool:
    """Return whether this folder holds more than half of its disk's capacity."""
    try:
        found = [path.lstat() for path in folder.rglob("*") if path.is_file()]
        sizes = {(each.st_dev, each.st_ino): each.st_size for each in found}  # hard links share their bytes
        return sum(sizes.values()) > shutil.disk_usage(folder).total / 2
    except OSError:
        return False
