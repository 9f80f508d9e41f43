"""Lookup of a base model's folder on this machine, by path or by name. It makes no request to any server."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from api.cli.connect import DEFAULT_DATA_DIR
from api.cli.errors import CommandError, ExitCode
from api.spec.manifest import BaseEntry


def find_base(path_or_name: str, trained: BaseEntry, data_dir: Path | None) -> Path:
    """Return the base model's folder. Raises CommandError if there is none.

    `path_or_name` is a folder, the name of the base model at the server that trained on it (if the data folder of a
    server on this machine has that model), or a hub id in the Hugging Face cache.
    """
    if Path(path_or_name).is_dir():
        return Path(path_or_name)
    folders = [*_in_server_data(path_or_name, trained, data_dir), *_in_hub_cache(path_or_name, trained)]
    if not folders:
        raise CommandError(
            ExitCode.REFUSED,
            f"{path_or_name} was not found: it is not a folder, not {trained.name} in the data folder of a server on "
            "this machine (--data-dir), and not in the Hugging Face cache. Give the base model's folder.",
        )
    return folders[0]


def _in_server_data(name: str, trained: BaseEntry, data_dir: Path | None) -> Iterator[Path]:
    """Yield base models in the local storage of `attune up`, recognized by the hash of their config.json."""
    folder = data_dir or Path(os.environ.get("ATTUNE_DATA_DIR") or DEFAULT_DATA_DIR)
    if name not in (trained.name, trained.source):
        return
    for config in sorted(folder.glob("objects/base/*/config.json")):
        if hashlib.sha256(config.read_bytes()).hexdigest() == trained.files.get("config.json"):
            yield config.parent


def _in_hub_cache(name: str, trained: BaseEntry) -> list[Path]:
    """Return the model's snapshots: first the revision that was used in training, then the others, newest first."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    snapshots = [path.parent for path in cache.glob(f"models--{name.replace('/', '--')}/snapshots/*/config.json")]
    return sorted(snapshots, key=lambda path: (path.name == trained.revision, path.stat().st_mtime), reverse=True)
