"""Folders that appear whole or not at all, each with a manifest of its files."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from api.spec.file_hash import file_sha256
from api.spec.lifecycle import FailureReason
from api.spec.manifest import NAME as MANIFEST
from api.spec.manifest import FileEntry, Manifest, Provenance
from worker.engine.errors import TrainingError


@contextmanager
def atomic_folder(final: Path, provenance: Provenance | None = None) -> Iterator[Path]:
    """A folder to fill. At the end its files are synced, listed in manifest.json, and it is moved to `final`.

    `provenance`: of what is published; what is only kept to go on from needs none.
    """
    staged = final.with_name(f".{final.name}.partial")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        yield staged
        write_manifest(staged, provenance)
        shutil.rmtree(final, ignore_errors=True)
        staged.rename(final)
        _sync(final.parent)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def write_manifest(folder: Path, provenance: Provenance | None = None) -> None:
    """Written last, once everything that it lists is on the disk. A folder in it that has its own is left to that."""
    files = [_entry(folder, path) for path in sorted(_own_files(folder))]
    if provenance is None:
        text = json.dumps({"files": [file.model_dump() for file in files]}, indent=2)
    else:
        text = Manifest(**dict(provenance), files=files).model_dump_json(indent=2)
    manifest = folder / MANIFEST
    manifest.write_text(text + "\n")
    _sync(manifest)
    _sync(folder)


def _own_files(folder: Path) -> list[Path]:
    apart = [path.parent for path in folder.rglob(MANIFEST)]
    files = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if not any(path.is_relative_to(each) for each in apart)]


def _entry(folder: Path, path: Path) -> FileEntry:
    _sync(path)
    name = path.relative_to(folder).as_posix()
    return FileEntry(name=name, bytes=path.stat().st_size, sha256=file_sha256(path))


def verify(folder: Path) -> dict[str, Any]:
    """The manifest, if every file is as it says. Else the operator reads in the log which one is not."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        for entry in manifest["files"]:
            if file_sha256(folder / entry["name"]) != entry["sha256"]:
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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
