"""A sampler's cache of published models: who waits for whom, and what is deleted."""

import math
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from api.infra.storage import Storage, StorageUnavailable, StoredObject
from api.spec.artifacts import Artifact
from worker.supervisor import adapter_cache, model_cache
from worker.supervisor.adapter_cache import AdapterCache

WAIT_S = 30


class SlowStorage(Storage):
    """A storage that waits in each read of "large", and counts all reads."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.reads: Counter[str] = Counter()
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.away = False

    def read_file(self, key: str, path: Path, *, sha256: str | None = None) -> StoredObject:
        self.reads[key] += 1
        if key == "large":
            self.begun.set()
            assert self.may_end.wait(WAIT_S)
        if self.away:
            raise StorageUnavailable(key)
        return super().read_file(key, path, sha256=sha256)


@pytest.fixture
def storage(tmp_path: Path) -> SlowStorage:
    return SlowStorage(str(tmp_path / "objects"))


@pytest.fixture
def cache(storage: SlowStorage, tmp_path: Path) -> AdapterCache:
    return AdapterCache(storage, tmp_path / "adapters")


def model(storage: Storage, name: str) -> list[Artifact]:
    stored = storage.write_bytes(name, name.encode())
    return [{"name": "weights", "key": name, "bytes": stored.bytes, "sha256": stored.sha256}]


def test_only_those_who_need_a_model_wait_for_its_fetch(storage: SlowStorage, cache: AdapterCache) -> None:
    large, small, other = (model(storage, name) for name in ("large", "small", "other"))
    cached = cache.fetch(small, user="before")
    with ThreadPoolExecutor(4) as pool:
        fetches = [pool.submit(cache.fetch, large, user=user) for user in ("first", "second")]
        try:
            assert storage.begun.wait(WAIT_S)
            assert pool.submit(cache.fetch, small, user="third").result(WAIT_S) == cached
            assert pool.submit(cache.fetch, other, user="fourth").result(WAIT_S) != cached
            assert not any(fetch.done() for fetch in fetches)
        finally:
            storage.may_end.set()
        (folder,) = {fetch.result(WAIT_S) for fetch in fetches}
    assert (folder / "weights").read_bytes() == b"large"
    assert storage.reads == {"large": 1, "small": 1, "other": 1}


def test_models_in_use_are_kept_and_others_make_room(
    storage: SlowStorage, cache: AdapterCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (cache.fetch(model(storage, name), user=name) for name in ("first", "second"))
    monkeypatch.setattr(adapter_cache, "MAX_BYTES", 1)
    cache.release("second")
    cache.fetch(model(storage, "third"), user="third")
    assert (first.exists(), second.exists()) == (True, False)


def test_models_make_room_on_a_disk_that_is_nearly_full(
    storage: SlowStorage, cache: AdapterCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (cache.fetch(model(storage, name), user=name) for name in ("first", "second"))
    for limit in ("RESERVED_SHARE", "RESERVED_BYTES"):
        monkeypatch.setattr(model_cache, limit, math.inf)  # no disk has as much
    cache.release("second")
    third = cache.fetch(model(storage, "third"), user="third")
    assert (first.exists(), second.exists(), third.exists()) == (True, False, True)


def test_a_failed_fetch_leaves_nothing_and_the_next_one_fetches(storage: SlowStorage, cache: AdapterCache) -> None:
    wanted, storage.away = model(storage, "wanted"), True
    with pytest.raises(StorageUnavailable):
        cache.fetch(wanted, user="first")
    storage.away = False
    assert (cache.fetch(wanted, user="second") / "weights").read_bytes() == b"wanted"
