"""Checks of published files against their manifest, and of a base model against the one that was trained on."""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import ValidationError

from api.cli.errors import CommandError, ExitCode
from api.cli.verify.tensors import WEIGHTS
from api.spec.file_hash import file_sha256
from api.spec.manifest import HOLDS_DATA, NAME, SIGNATURE, Manifest, recipe_hash

PARTIAL_SUFFIX = ".part"
"""Suffix of unfinished files of `attune adapters download`."""


@contextmanager
def open_artifact(path: Path) -> Iterator[Path]:
    """Yield the folder at the path or, for a tar, a temporary folder with its contents."""
    if path.is_dir():
        yield path
        return
    if not path.exists():
        raise CommandError(ExitCode.REFUSED, f"{path} does not exist.")
    with TemporaryDirectory() as folder:
        try:
            with tarfile.open(path) as archive:
                archive.extractall(folder, filter="data")
        except (tarfile.TarError, EOFError) as error:
            raise CommandError(ExitCode.CORRUPT, f"{path} is not a complete tar archive: {error}.") from None
        yield Path(folder)


def read_manifest(folder: Path) -> Manifest:
    """Return the folder's manifest. Raises CommandError if there is none, because nothing can then be verified."""
    try:
        return Manifest.model_validate_json((folder / NAME).read_bytes())
    except FileNotFoundError:
        raise CommandError(ExitCode.REFUSED, f"{folder} has no {NAME}, so it was not published by Attune.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the text"
        raise CommandError(
            ExitCode.CORRUPT,
            f"{NAME} is damaged, or was written by another version of Attune: {where}: {first['msg']}.",
        ) from None


def check_files(folder: Path, manifest: Manifest) -> tuple[list[str], list[str]]:
    """Return (problems, notes) about files that are missing, changed or not listed.

    A missing file is only noted if it holds rows of the data, which may be deleted before sharing.
    """
    problems: list[str] = []
    notes: list[str] = []
    listed = {entry.name: entry for entry in manifest.files}
    present = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    for name, entry in listed.items():
        if name not in present:
            (notes if name in HOLDS_DATA else problems).append(f"{name} is missing")
        elif file_sha256(present[name]) != entry.sha256:
            problems.append(f"{name} was changed: its SHA-256 is not the one in {NAME}")
    for name in sorted(present.keys() - listed.keys() - {NAME, SIGNATURE}):
        problems.append(f"{name} is not listed in {NAME}")
    if recipe_hash(manifest.recipe) != manifest.recipe_sha256:
        problems.append(f"the recipe in {NAME} was changed: its SHA-256 differs from recipe_sha256")
    return problems, notes


def base_differences(manifest: Manifest, base: Path) -> list[str]:
    """Return how the weights in `base` differ from those that were trained on.

    config.json is not compared: `attune models add` rewrites it.
    """
    trained = {name: sha256 for name, sha256 in manifest.origin.base.files.items() if name.endswith(WEIGHTS)}
    present = {path.name: file_sha256(path) for path in sorted(base.glob(f"*{WEIGHTS}"))}
    missing = [f"{name} is missing" for name in sorted(trained.keys() - present.keys())]
    return missing + [
        f"{name} differs from the file that was trained on"
        for name in sorted(trained.keys() & present.keys())
        if present[name] != trained[name]
    ]


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files that the manifest must list.

    Hidden files, unfinished downloads, and subfolders with a manifest of their own are left out.
    """
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        own_manifest = any((folder.joinpath(*parts[:depth]) / NAME).exists() for depth in range(1, len(parts)))
        if (
            path.is_file()
            and not own_manifest
            and path.suffix != PARTIAL_SUFFIX
            and not any(part[0] == "." for part in parts)
        ):
            yield path
