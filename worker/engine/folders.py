"""Folders that appear whole or not at all, each with a manifest of its files."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from api.lifecycle import FailureReason
from worker.engine.stopping import TrainingError

MANIFEST = "manifest.json"


@contextmanager
def whole_folder(final: Path, **facts: Any) -> Iterator[Path]:
    """A folder to fill. At the end its files are synced, listed in manifest.json, and it is moved to `final`."""
    staged = final.with_name(f".{final.name}.partial")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        yield staged
        write_manifest(staged, **facts)
        shutil.rmtree(final, ignore_errors=True)
        staged.rename(final)
        _sync(final.parent)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def write_manifest(folder: Path, **facts: Any) -> None:
    """{"files": [{"name", "size", "sha256"}], …}; written last, once everything that it lists is on the disk."""
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        _sync(path)
        name = path.relative_to(folder).as_posix()
        files.append({"name": name, "size": path.stat().st_size, "sha256": _sha256(path)})
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"files": files, **facts}, indent=2, sort_keys=True) + "\n")
    _sync(manifest)
    _sync(folder)


def verify(folder: Path) -> dict[str, Any]:
    """The manifest, if every file is as it says. Else the operator reads in the log which one is not."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        for entry in manifest["files"]:
            path = folder / entry["name"]
            if path.stat().st_size != entry["size"] or _sha256(path) != entry["sha256"]:
                raise ValueError(f"{entry['name']} is not the file that was saved")
    except (OSError, ValueError, KeyError) as error:
        name = getattr(error, "filename", None)
        detail = f"{Path(name).name} is missing" if name else str(error)
        message = f"The saved state cannot be used: {detail}."
        raise TrainingError(FailureReason.INTERNAL, message) from error
    return manifest


def keep_newest(folders: Path, count: int, *, besides: Path | None = None) -> None:
    """Remove all but the newest finished folders (their names sort by step), and `besides`."""
    finished = sorted(path for path in folders.iterdir() if not path.name.startswith("."))
    for path in finished[:-count]:
        if path != besides:
            shutil.rmtree(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
