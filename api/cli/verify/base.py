"""A base model's folder on this machine, by path or by name. Nothing is asked of any server."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from api.cli.connect import DEFAULT_DATA_DIR
from api.cli.errors import CommandError, ExitCode
from api.spec.manifest import BaseEntry


def find_base(named: str, trained: BaseEntry, data_dir: Path | None) -> Path:
    """A folder; or the trained base by the server's name of it, where this machine's server has it; or a hub id in the
    Hugging Face cache. Raises CommandError."""
    if Path(named).is_dir():
        return Path(named)
    places = [*_added_here(named, trained, data_dir), *_in_hub_cache(named, trained)]
    if not places:
        raise CommandError(
            ExitCode.REFUSED,
            f"{named} is no folder here, not {trained.name} in the data folder of a server here (--data-dir), and "
            "not in the Hugging Face cache: give the base model's folder.",
        )
    return places[0]


def _added_here(named: str, trained: BaseEntry, data_dir: Path | None) -> Iterator[Path]:
    """Base models in the local storage of an `attune up`, known by their config.json."""
    folder = data_dir or Path(os.environ.get("ATTUNE_DATA_DIR") or DEFAULT_DATA_DIR)
    if named not in (trained.name, trained.source):
        return
    for config in sorted(folder.glob("objects/base/*/config.json")):
        if hashlib.sha256(config.read_bytes()).hexdigest() == trained.files.get("config.json"):
            yield config.parent


def _in_hub_cache(named: str, trained: BaseEntry) -> list[Path]:
    """Its snapshots: the one that was trained on first, else the newest."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    snapshots = [path.parent for path in cache.glob(f"models--{named.replace('/', '--')}/snapshots/*/config.json")]
    return sorted(snapshots, key=lambda path: (path.name == trained.revision, path.stat().st_mtime), reverse=True)
