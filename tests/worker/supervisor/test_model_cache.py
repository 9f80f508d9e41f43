"""Which models leave a worker's cache, and which never do."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from api.spec.artifacts import Artifact
from worker.supervisor import model_cache
from worker.supervisor.inputs import fetch_once
from worker.supervisor.model_cache import KEEP_S, RECENT_S, locked, make_room

SIZE = 40
"""Bytes of each model."""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Models by name, the least recently used first; run folders link to "base", and to a file of "judge"."""
    cache = tmp_path / "work" / "cache" / "base"
    for age_s, name in enumerate(("new", "used", "old.partial", "old", "judge", "base")):
        (cache / name).mkdir(parents=True)
        (cache / name / "weights").write_bytes(bytes(SIZE))
        used_at = time.time() - (age_s * RECENT_S if name != "new" else 0)
        os.utime(cache / name, (used_at - 60, used_at - 60))
    run = tmp_path / "work" / "train-0" / "ftjob-1-1"
    (run / "judges" / "0").mkdir(parents=True)
    (run / "base").symlink_to(cache / "base")
    (run / "judges" / "0" / "weights").symlink_to(cache / "judge" / "weights")
    return cache


@pytest.fixture
def fill(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set the bytes that the disk has free now."""

    def fill(free: int) -> None:
        capacity = free + SIZE * len(names(cache))

        class Disk:
            total = 0

            @property
            def free(self) -> int:
                return capacity - SIZE * len(names(cache))

        monkeypatch.setattr("worker.supervisor.model_cache.shutil.disk_usage", lambda _: Disk())

    return fill


def names(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir() if path.is_dir()}


def test_the_least_recently_used_models_make_room(cache: Path, fill: Callable[[int], None]) -> None:
    fill(0)
    make_room(cache, SIZE)
    assert names(cache) == {"new", "used", "old.partial", "judge", "base"}
    make_room(cache, 100 * SIZE)
    assert names(cache) == {"new", "judge", "base"}, "one was just used, and the others are linked"


def test_while_there_is_room_only_models_unused_for_long_are_deleted(cache: Path, fill: Callable[[int], None]) -> None:
    fill(100)
    make_room(cache, SIZE)
    assert len(names(cache)) == 6
    for name in ("old", "base"):
        os.utime(cache / name, (time.time() - KEEP_S - 60,) * 2)
    make_room(cache, SIZE)
    assert names(cache) == {"new", "used", "old.partial", "judge", "base"}


def test_a_model_that_another_process_fetches_stays(cache: Path, fill: Callable[[int], None]) -> None:
    fill(0)
    with locked(cache / "old"):
        make_room(cache, 100 * SIZE)
    assert names(cache) == {"new", "old", "old.partial", "judge", "base"}


def test_a_use_makes_a_model_recent_and_a_broken_fetch_leaves_nothing(cache: Path) -> None:
    def broken(key: str, path: Path, **_: Any) -> None:
        path.write_bytes(b"part")
        raise OSError(28, "No space left on device")

    artifacts = [Artifact(name="weights", bytes=SIZE, sha256="", key="k")]
    storage: Any = SimpleNamespace(read_file=broken)
    fetch_once(storage, artifacts, cache / "old")
    assert time.time() - model_cache._used_at(cache / "old") < RECENT_S
    with pytest.raises(OSError, match="No space"):
        fetch_once(storage, artifacts, cache / "another")
    assert not {"another", "another.partial"} & names(cache)
