"""Folders that appear whole or not at all, each with a manifest of its files."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from api.spec.file_hash import file_sha256
from api.spec.lifecycle import FailureReason
from api.spec.manifest import NAME as MANIFEST
from api.spec.manifest import FileEntry, Manifest, Provenance
from worker.engine.errors import TrainingError


@contextmanager
def atomic_folder(final: Path, provenance: Provenance | None = None) -> Iterator[Path]:
    """Yield a folder to fill. At the end, sync its files, list them in manifest.json, and move it to `final`.

    After an error the unfinished folder stays, under a hidden name: the supervisor, which deletes the run folder, first
    measures whether the job itself has filled the disk.

    `provenance`: written into the manifest of a published folder; None for a saved state.
    """
    staged = final.with_name(f".{final.name}.partial")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    yield staged
    write_manifest(staged, provenance)
    shutil.rmtree(final, ignore_errors=True)
    staged.rename(final)
    _fsync(final.parent)


def write_manifest(folder: Path, provenance: Provenance | None = None) -> None:
    """Sync the folder's files, then write manifest.json with their sizes and hashes. A subfolder with a manifest of its
    own is left out."""
    files = [_entry(folder, path) for path in sorted(_own_files(folder))]
    if provenance is None:
        text = json.dumps({"files": [file.model_dump() for file in files]}, indent=2)
    else:
        text = Manifest(**dict(provenance), files=files).model_dump_json(indent=2)
    manifest = folder / MANIFEST
    manifest.write_text(text + "\n")
    _fsync(manifest)
    _fsync(folder)


def _own_files(folder: Path) -> list[Path]:
    nested = [manifest.parent for manifest in folder.rglob(MANIFEST)]
    files = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if not any(path.is_relative_to(subfolder) for subfolder in nested)]


def _entry(folder: Path, path: Path) -> FileEntry:
    _fsync(path)
    name = path.relative_to(folder).as_posix()
    return FileEntry(name=name, bytes=path.stat().st_size, sha256=file_sha256(path))


def verify_manifest(folder: Path) -> None:
    """Raise TrainingError unless every file that the saved state's manifest lists is unchanged. The message names the
    first file that has changed or is missing."""
    try:
        for entry in json.loads((folder / MANIFEST).read_bytes())["files"]:
            if file_sha256(folder / entry["name"]) != entry["sha256"]:
                raise ValueError(f"{entry['name']} is not the file that was saved")
    except (OSError, ValueError, KeyError) as error:
        name = getattr(error, "filename", None)
        detail = f"{Path(name).name} is missing" if name else str(error)
        message = f"The saved state cannot be used: {detail}."
        raise TrainingError(FailureReason.INTERNAL, message) from error


def keep_newest(parent: Path, count: int, *, keep: Path | None = None) -> None:
    """Remove all finished subfolders except the newest `count` and the folder `keep`. The newest is the last by name,
    because the names contain the step."""
    finished = sorted(folder for folder in parent.iterdir() if not folder.name.startswith("."))
    for folder in finished[:-count]:
        if folder != keep:
            shutil.rmtree(folder)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
