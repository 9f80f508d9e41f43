"""States and checkpoints are written beside the training: it waits for no disk, and loses none of their errors."""

import threading
from pathlib import Path
from typing import Any

import pytest

from tests.worker.recorder import Recorder, adapter, attempt_after, train_here
from tests.worker.run_folders import make_run, random_rows
from worker.engine import callbacks
from worker.engine.saving import atomic_folder
from worker.engine.saving.atomic_folder import write_manifest
from worker.engine.saving.background import Background
from worker.engine.saving.training_state import begin_state

EPOCHS = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": 4}}}
"""Three epochs of 3 steps."""


def _run(folder: Path, base: Path, *, validation: Any = (), **training: Any) -> Path:
    rows = {"train": random_rows(12, seed=5), "validation": validation}
    return make_run(folder, base, method=EPOCHS, training=training, **rows)


def _saved_at(recorder: Recorder) -> list[int]:
    return [report["step"] for report in recorder.of("state")]


def test_training_continues_while_the_disk_is_slow_and_resumes_to_the_same_bytes(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_here(_run(tmp_path / "whole", tiny_llama))
    later = threading.Event()

    def slow(folder: Path, *provenance: Any) -> None:
        if folder.parent.name == "states":
            assert later.wait(60)
        write_manifest(folder, *provenance)

    monkeypatch.setattr(atomic_folder, "write_manifest", slow)
    run = _run(tmp_path / "run", tiny_llama, save_every=2)
    recorder = train_here(run, on_report=lambda report: later.set() if report.get("step") == 4 else None)
    steps = [report["step"] for report in recorder.reports if report["type"] in ("metrics", "state")]
    assert steps.index(4) < len(steps) - 1 - steps[::-1].index(2), "the state of step 2 came after step 4"
    assert _saved_at(recorder) == [2, 4, 6, 8]
    resumed = attempt_after(run, tmp_path / "next", "out/states/step-000006")
    train_here(resumed)
    assert adapter(resumed) == adapter(tmp_path / "whole")


def test_a_state_that_cannot_be_written_ends_the_attempt(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, *_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_folder, "write_manifest", full)
    run = _run(tmp_path / "run", tiny_llama, save_every=2)
    with pytest.raises(OSError, match="No space left"):
        train_here(run)
    [left] = (run / "out" / "states").iterdir()
    assert left.name == ".step-000002.partial", "its bytes count as those of the job"


def test_without_an_interval_states_are_saved_after_each_epoch(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Background, "idle", lambda states: states.wait() is None)  # the disk is fast
    assert _saved_at(train_here(_run(tmp_path / "run", tiny_llama))) == [3, 6]


class Clock:
    """Stands in for time.monotonic."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1e-3
        return self.now


@pytest.mark.parametrize(("written_s", "steps"), [(0, [1, 2, 3, 4, 5, 6, 7, 8, 9]), (30, [1, 5, 9])])
def test_without_an_interval_states_are_saved_as_time_passes(
    written_s: int, steps: list[int], tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """… and less often if the writing of one takes long: 30 s may be spent every 600 s, and a step takes 180 s."""
    clock = Clock()

    def write(*arguments: Any, **options: Any) -> Any:
        clock.now += written_s
        return begin_state(*arguments, **options)

    def pass_time(report: dict[str, Any]) -> None:
        clock.now += callbacks.SAVE_S if report["type"] == "metrics" else 0

    monkeypatch.setattr(callbacks, "begin_state", write)
    monkeypatch.setattr("worker.engine.callbacks.time.monotonic", clock)
    monkeypatch.setattr(Background, "idle", lambda states: states.wait() is None)  # the disk is fast
    assert _saved_at(train_here(_run(tmp_path / "run", tiny_llama), on_report=pass_time)) == steps


@pytest.mark.parametrize("ends_early", [False, True])
def test_an_interrupted_publication_is_repeated_without_a_step(
    ends_early: bool, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"save_every": 1000, "learning_rate": 1e-2}
    if ends_early:
        options |= {"eval_every": 1, "early_stopping": {"patience": 1, "min_delta": 1e9}}
    run = _run(tmp_path / "run", tiny_llama, validation=random_rows(3, seed=6), **options)
    monkeypatch.setattr(callbacks, "SAVE_S", 0)
    whole = train_here(run)
    last = whole.of("done")[0]["step"]
    assert _saved_at(whole) == [last]
    assert (last < 9) is ends_early
    resumed = attempt_after(run, tmp_path / "next", whole.of("state")[0]["path"])
    recorder = train_here(resumed)
    assert recorder.of("metrics") == []
    assert recorder.of("done")[0]["evaluation"] == whole.of("done")[0]["evaluation"]
    for name in ("adapter_model.safetensors", "README.md"):
        first, second = ((folder / "out" / "model" / name).read_bytes() for folder in (run, resumed))
        assert first == second
