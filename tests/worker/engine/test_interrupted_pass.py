"""A stop in a pass over the rows ends it at once. The next attempt resumes there, and publishes the same bytes."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.worker import pairs
from tests.worker.recorder import Recorder, adapter, attempt_after, train_here
from tests.worker.run_folders import make_run, random_rows
from worker.engine import callbacks, objective, reference_pass
from worker.engine.errors import Stopped
from worker.methods import METHODS, Objective
from worker.shared.arrays import Rows
from worker.shared.reports import StoppedReport
from worker.train import train

GROUPS = pairs.ROWS // 2


class Stopping(Recorder):
    """The pipe of a trainer that has to stop after some micro-batches, or as a phase begins."""

    def __init__(self, *, batches: float = math.inf, phase: str | None = None) -> None:
        super().__init__()
        self._batches, self._phase = batches, phase

    def alive(self) -> None:
        self._batches -= 1

    @property
    def stopping(self) -> bool:
        return self._batches <= 0 or self._phase in [report["phase"] for report in self.of("phase")]


def stop(run: Path, pipe: Stopping) -> Stopping:
    with pytest.raises(Stopped) as stopped:
        train(run, pipe)  # type: ignore[arg-type]
    pipe.report(StoppedReport(step=stopped.value.step))
    return pipe


def references_of(method: str, monkeypatch: pytest.MonkeyPatch, *, most: float = math.inf) -> list[int]:
    """A list to which each call that computes references adds its number of rows. The call after `most` of them raises
    KeyboardInterrupt."""
    calls: list[int] = []
    whole = METHODS[method].reference

    def counting(self: Objective, rows: Rows) -> Any:
        if len(calls) == most:
            raise KeyboardInterrupt
        calls.append(len(rows))
        return whole(self, rows)

    monkeypatch.setattr(METHODS[method], "reference", counting)
    return calls


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "REFERENCE_ROWS", 2)


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_log_probabilities_of_the_reference_are_computed_once(
    method: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "first"):
        pairs.make(tmp_path / name, tiny_llama, "lora", method, seed=5, steps=2)
    train_here(tmp_path / "whole")
    run = tmp_path / "first"
    for number in (1, 2):  # each attempt computes one group
        stopped = stop(run, Stopping(batches=2))
        assert stopped.reports[-1] == {"type": "stopped", "step": 0}
        [state] = stopped.of("state")
        known = load_file(run / state["path"] / "references.safetensors")["train"]
        assert np.isfinite(known).all(1).sum() == 2 * number
        run = attempt_after(run, tmp_path / f"next{number}", state["path"])
    calls = references_of(method, monkeypatch)
    train_here(run)
    assert calls == [2] * (GROUPS - 2)
    assert adapter(run) == adapter(tmp_path / "whole")


def test_a_killed_pass_is_continued_from_its_last_state(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SAVE_S", "PASS_SHARE"):
        monkeypatch.setattr(reference_pass, name, 0)
    for name in ("whole", "first"):
        pairs.make(tmp_path / name, tiny_llama, "lora", "dpo", seed=5, steps=2)
    train_here(tmp_path / "whole")
    killed: Any = Recorder()
    with monkeypatch.context() as kill:
        references_of("dpo", kill, most=2)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "first", killed)
    states = killed.of("state")
    assert [state["step"] for state in states] == [0, 0]
    run = attempt_after(tmp_path / "first", tmp_path / "next", states[-1]["path"])
    calls = references_of("dpo", monkeypatch)
    train_here(run)
    assert calls == [2] * (GROUPS - 2)
    assert adapter(run) == adapter(tmp_path / "whole")


def test_a_pass_that_ran_out_of_memory_continues_with_smaller_batches(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SAVE_S", "PASS_SHARE"):
        monkeypatch.setattr(reference_pass, name, 0)
    budgets: list[int] = []
    faults: dict[int, BaseException] = {1: MemoryError(), 3: KeyboardInterrupt()}
    whole = METHODS["dpo"].reference

    def failing(self: Objective, rows: Rows) -> Any:
        budgets.append(self.budget_tokens)
        if (fault := faults.pop(len(budgets) - 1, None)) is not None:
            raise fault
        return whole(self, rows)

    monkeypatch.setattr(METHODS["dpo"], "reference", failing)
    pairs.make(tmp_path / "first", tiny_llama, "lora", "dpo", seed=5, steps=2)
    killed: Any = Recorder()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "first", killed)
    run = attempt_after(tmp_path / "first", tmp_path / "next", killed.of("state")[-1]["path"])
    train_here(run)
    assert budgets == [256, 256, *[128] * GROUPS]


def test_an_evaluation_is_repeated(tiny_llama: Path, tmp_path: Path) -> None:
    for name in ("whole", "first"):
        training = {"eval_every": 1, "max_steps": 2, "learning_rate": 1e-3}
        rows: dict[str, Any] = {"train": random_rows(6, seed=1), "validation": random_rows(4, seed=2)}
        make_run(tmp_path / name, tiny_llama, training=training, **rows)
    whole = train_here(tmp_path / "whole")
    stopped = stop(tmp_path / "first", Stopping(phase="evaluating"))
    assert stopped.reports[-1] == {"type": "stopped", "step": 1}
    assert stopped.of("metrics") == []
    run = attempt_after(tmp_path / "first", tmp_path / "next", stopped.of("state")[-1]["path"])
    resumed = train_here(run)
    losses, expected = ([(m["step"], m["valid_loss"]) for m in each.of("metrics")] for each in (resumed, whole))
    assert losses == expected
    assert adapter(run) == adapter(tmp_path / "whole")


def test_a_comparison_is_repeated_without_a_step(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "SAVE_S", 0)
    for name in ("whole", "first"):
        pairs.make(tmp_path / name, tiny_llama, "lora", "dpo", seed=5, steps=2)
    whole = train_here(tmp_path / "whole")
    stopped = stop(tmp_path / "first", Stopping(phase="comparing"))
    assert stopped.reports[-1] == {"type": "stopped", "step": 2}
    run = attempt_after(tmp_path / "first", tmp_path / "next", stopped.of("state")[-1]["path"])
    resumed = train_here(run)
    assert resumed.of("metrics") == []
    assert resumed.of("done")[0]["evaluation"] == whole.of("done")[0]["evaluation"] is not None
    assert adapter(run) == adapter(tmp_path / "whole")
