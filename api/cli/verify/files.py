"""What `attune adapters verify` looks at: a published folder against its own manifest, and its weights themselves."""

import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError

from api.cli.errors import CommandError, ExitCode
from api.cli.verify.tensors import check_lora_shapes, read_tensors
from api.spec.file_hash import file_sha256
from api.spec.manifest import HOLDS_DATA, NAME, Manifest, recipe_hash
from api.spec.safetensors_header import HeaderError

WEIGHTS = ".safetensors"
ADAPTER_CONFIG = "adapter_config.json"
PARTIAL_SUFFIX = ".part"
"""What `attune adapters download` has not got whole."""


@contextmanager
def open_artifact(path: Path) -> Iterator[Path]:
    """The folder, or what is in the tar, which writes nothing outside of a folder of its own."""
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
            raise CommandError(ExitCode.CORRUPT, f"{path} is no whole tar archive: {error}.") from None
        yield Path(folder)


def read_manifest(folder: Path) -> Manifest:
    """Raises CommandError: without it nothing can be verified."""
    try:
        return Manifest.model_validate_json((folder / NAME).read_bytes())
    except FileNotFoundError:
        raise CommandError(ExitCode.REFUSED, f"{folder} has no {NAME}: it is nothing that Attune published.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the text"
        raise CommandError(
            ExitCode.CORRUPT, f"{NAME} is damaged, or of another version of Attune: {where}: {first['msg']}."
        ) from None


def check_files(folder: Path, manifest: Manifest) -> tuple[list[str], list[str]]:
    """(problems, notes): files that are missing, changed or not listed."""
    problems: list[str] = []
    notes: list[str] = []
    listed = {entry.name: entry for entry in manifest.files}
    found = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    for name, entry in listed.items():
        if name not in found:
            (notes if name in HOLDS_DATA else problems).append(f"{name} is missing")
        elif file_sha256(found[name]) != entry.sha256:
            problems.append(f"{name} was changed: its SHA-256 is not the listed one")
    for name in sorted(found.keys() - listed.keys() - {NAME}):
        problems.append(f"{name} is not listed in {NAME}")
    if recipe_hash(manifest.recipe) != manifest.recipe_sha256:
        problems.append(f"the recipe in {NAME} is not the one whose SHA-256 stands beside it")
    return problems, notes


def check_tensors(folder: Path, manifest: Manifest) -> tuple[list[str], int, int]:
    """(problems, tensors, values) of the weights, whatever their hashes say."""
    problems: list[str] = []
    shapes: dict[str, tuple[int, ...]] = {}
    values = 0
    for entry in manifest.files:
        path = folder / entry.name
        if not entry.name.endswith(WEIGHTS) or not path.is_file():
            continue
        try:
            for tensor in read_tensors(path):
                shapes[tensor.name] = tensor.shape
                values += _count(tensor.shape)
                if not tensor.finite():
                    problems.append(f"{entry.name}: {tensor.name} holds values that are not finite")
        except HeaderError as error:
            problems.append(f"{entry.name} cannot be read: {error}")
    if not shapes and manifest.kind != "gguf":
        problems.append("there are no weights")
    return problems + _shape_problems(folder, shapes), len(shapes), values


def _shape_problems(folder: Path, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    config = _object(folder / ADAPTER_CONFIG)
    index = _object(folder / "model.safetensors.index.json").get("weight_map", {})
    missing = [f"{name} is in the index, and in none of the files" for name in sorted(index.keys() - shapes.keys())]
    return missing + (check_lora_shapes(shapes, config) if config.get("peft_type") == "LORA" else [])


def base_differences(manifest: Manifest, base: Path) -> list[str]:
    """How a base's weights differ from those that were trained on. Its config.json is tidied when it is added, and so
    does not count."""
    trained = {name: sha256 for name, sha256 in manifest.origin.base.files.items() if name.endswith(WEIGHTS)}
    here = {path.name: file_sha256(path) for path in sorted(base.glob(f"*{WEIGHTS}"))}
    lacking = [f"{name} is not there" for name in sorted(trained.keys() - here.keys())]
    return lacking + [
        f"{name} is another file" for name in sorted(trained.keys() & here.keys()) if here[name] != trained[name]
    ]


def _files(folder: Path) -> Iterator[Path]:
    """What counts: not hidden files, unfinished downloads, or folders with a manifest of their own."""
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        apart = any((folder.joinpath(*parts[:depth]) / NAME).exists() for depth in range(1, len(parts)))
        if path.is_file() and not apart and path.suffix != PARTIAL_SUFFIX and not any(part[0] == "." for part in parts):
            yield path


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
