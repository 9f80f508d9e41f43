"""Before the files are read again, the trainer has freed its model: a GPU may not hold it twice."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker import pairs
from tests.worker.recorder import train_here
from worker import train
from worker.engine.model.load import load_trainable
from worker.engine.publish import publish
from worker.engine.publish.fresh_process import score_in_fresh_process


@pytest.mark.parametrize(
    ("technique", "method"),
    [("lora", "supervised"), ("full", "supervised"), ("lora", "reinforcement")],
)
def test_no_weight_of_the_trainer_is_left_when_its_files_are_scored(
    technique: str, method: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: list[tuple[str, weakref.ref[torch.Tensor]]] = []
    left: list[str] = []

    def loaded(*arguments: Any, **options: Any) -> Any:
        model = load_trainable(*arguments, **options)
        weights.extend((name, weakref.ref(each)) for name, each in model.network.named_parameters())
        weights.extend((name, weakref.ref(each)) for name, each in model.masters.items())
        return model

    def scored(*arguments: Any) -> Any:
        gc.collect()
        left.extend(name for name, weight in weights if weight() is not None)
        return score_in_fresh_process(*arguments)

    monkeypatch.setattr(train, "load_trainable", loaded)
    monkeypatch.setattr(publish, "score_in_fresh_process", scored)
    monkeypatch.setattr(
        pairs, "OPTIONS", {"reinforcement": {"grader": pairs.GRADER, "max_tokens": 4, "kl_coefficient": 0.1}}
    )
    pairs.make(tmp_path / "run", tiny_llama, technique, method, seed=1, steps=1)
    train_here(tmp_path / "run")
    assert weights
    assert left == []
