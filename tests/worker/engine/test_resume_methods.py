"""Every method that was interrupted publishes the bytes of the run that was not: references, samples and all."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from api.spec import evaluation
from tests.worker import pairs
from tests.worker.recorder import adapter, attempt_after, train_here
from worker.engine import data
from worker.methods import METHODS, Objective
from worker.shared.arrays import Rows

OPTIONS: dict[str, dict[str, Any]] = {
    "ppo": {
        "grader": pairs.GRADER,
        "reward_model": None,
        "kl_coefficient": 0.1,
        "adaptive_kl": {"target": 1, "horizon": 20},
    },
    "reinforcement": {"grader": pairs.GRADER, "kl_coefficient": 0.1},
}


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_references_are_of_the_rows_that_steps_reach(
    method: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """… and the same as those of all rows. The comparison looks at three more rows."""
    monkeypatch.setattr(evaluation, "COMPARED_TRAINING_ROWS", 3)
    counted: list[int] = []
    whole = METHODS[method].reference

    def counting(self: Objective, rows: Rows) -> Any:
        counted.append(len(rows))
        return whole(self, rows)

    for name, of_all in (("few", False), ("all", True)):
        options = {"hyperparameters": {"n_epochs": 1, "batch_size": 2}}
        pairs.make(tmp_path / name, tiny_llama, "lora", method, seed=5, steps=2, options=options)
        if of_all:
            monkeypatch.setattr(data, "rows_of_steps", lambda count, _: np.arange(count))
        monkeypatch.setattr(METHODS[method], "reference", whole if of_all else counting)
        assert train_here(tmp_path / name).of("done")[0]["evaluation"] is not None
    assert counted[0] == 4 < pairs.ROWS
    assert sum(counted) <= 7
    assert adapter(tmp_path / "few") == adapter(tmp_path / "all")


METHODS_WITH_STATE = ("classification", "dpo", "kto", "reward", "ppo", "reinforcement")
# With prefix tuning, one method of each kind runs always: a reference, and rollouts. `make pairs` runs all.
ALWAYS_WITH_PREFIX = ("dpo", "ppo")


@pytest.mark.parametrize(
    ("method", "technique"),
    [
        *((method, "lora") for method in METHODS_WITH_STATE),
        *(
            pytest.param(method, "prefix", marks=[] if method in ALWAYS_WITH_PREFIX else [pytest.mark.pairs])
            for method in METHODS_WITH_STATE
        ),
    ],
)
def test_stopped_and_resumed_gives_the_same_bytes(
    method: str, technique: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "first"):
        options = OPTIONS.get(method, {})
        pairs.make(tmp_path / name, tiny_llama, technique, method, seed=5, steps=5, options=options)
    whole = train_here(tmp_path / "whole")
    first = train_here(tmp_path / "first", stop_after=3)
    run = attempt_after(tmp_path / "first", tmp_path / "next", first.of("state")[-1]["path"])
    with monkeypatch.context() as without:  # which a state keeps
        without.setattr(METHODS[method], "reference", lambda *_: pytest.fail("references are computed once for a job"))
        resumed = train_here(run)
    assert [report["step"] for report in resumed.of("metrics")] == [4, 5]
    assert adapter(run) == adapter(tmp_path / "whole")
    timed = ("tokens_per_second",)
    last, expected = ({k: v for k, v in each.of("metrics")[-1].items() if k not in timed} for each in (resumed, whole))
    assert last == expected
    found, expected = (each.of("done")[0]["evaluation"] for each in (resumed, whole))
    assert expected is not None
    assert found == expected
