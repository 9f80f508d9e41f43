"""Storage that is slower than the trainer saves states."""

import shutil
from pathlib import Path

import pytest

from api.infra.storage import StorageUnavailable
from worker.supervisor.uploads import WaitingState


def a_state(folder: Path, step: int) -> Path:
    state = folder / "states" / f"step-{step}"
    state.mkdir(parents=True)
    (state / "weights").write_text(str(step))
    return state


class Store:
    def __init__(self) -> None:
        self.stored: list[tuple[int, str]] = []

    def __call__(self, step: int, folder: Path) -> None:
        self.stored.append((step, (folder / "weights").read_text()))


@pytest.fixture
def waiting(tmp_path: Path) -> WaitingState:
    return WaitingState(tmp_path / "uploading")


def test_the_newest_state_is_stored_though_the_trainer_has_deleted_it(waiting: WaitingState, tmp_path: Path) -> None:
    store = Store()
    for step in (1, 2, 3):
        state = a_state(tmp_path, step)
        waiting.put(step, state)
        shutil.rmtree(state)
    for _ in range(3):
        waiting.store(store)
    assert store.stored == [(3, "3")]
    assert list((tmp_path / "uploading").iterdir()) == []


@pytest.mark.parametrize("newer", [False, True])
def test_a_state_that_could_not_be_stored_waits_unless_a_newer_one_does(
    waiting: WaitingState, tmp_path: Path, newer: bool
) -> None:
    def fail(step: int, folder: Path) -> None:
        if newer:
            waiting.put(2, a_state(tmp_path, 2))
        raise StorageUnavailable("503")

    waiting.put(1, a_state(tmp_path, 1))
    with pytest.raises(StorageUnavailable):
        waiting.store(fail)
    store = Store()
    waiting.store(store)
    assert store.stored == ([(2, "2")] if newer else [(1, "1")])
    assert list((tmp_path / "uploading").iterdir()) == []


def test_without_hard_links_a_state_that_is_gone_is_skipped(
    waiting: WaitingState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("worker.supervisor.uploads.os.link", unsupported)
    store = Store()
    kept, gone = a_state(tmp_path, 1), a_state(tmp_path, 2)
    waiting.put(1, kept)
    waiting.store(store)
    waiting.put(2, gone)
    shutil.rmtree(gone)
    waiting.store(store)
    waiting.put(2, gone)
    assert store.stored == [(1, "1")]
    assert kept.exists()
