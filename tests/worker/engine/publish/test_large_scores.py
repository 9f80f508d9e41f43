"""Scores of a regression may be large. They are rounded in proportion, and the proof of the files allows for that."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from api.spec.resolve import Labels
from tests.tiny_models import make_model
from tests.worker.parity import ours
from tests.worker.recorder import Recorder
from worker.engine.data import Data
from worker.engine.errors import TrainingError
from worker.engine.publish import parity
from worker.engine.publish.card import TrainingSummary
from worker.engine.publish.publish import publish
from worker.methods import Objective

MARKS, PRICES = 80.0, 20_000.0


def regression(folder: Path, precision: str, mean: float, seed: int) -> tuple[Objective, Data]:
    """A trained regression that gives about this number to each of its rows."""
    torch.manual_seed(seed)
    base = make_model(folder / "base", "llama", dtype=getattr(torch, precision))
    options: dict[str, Any] = {"labels": Labels(problem="regression"), "merged": True, "precision": precision}
    recipe = ours.settled("classification", {}, ours.LORA).model_copy(update=options)
    objective = ours.begin(base, folder / "run", recipe)
    ours.change_weights(objective)
    rng = np.random.default_rng(seed)
    rows = ours.rows_of([(ours.drawn(rng, 9, 20), []) for _ in range(8)], labels=np.zeros(8))
    rows = replace(rows, loss_weights=np.zeros(len(rows.tokens), np.float32))
    (head,) = [weight for name, weight in objective.model.trained.items() if "score" in name]
    with torch.no_grad():
        scores = torch.cat([objective.model.sequence_scores(batch) for batch in objective.batches(rows)])
        head.mul_(mean / scores.abs().mean())
    return objective, Data(rows, rows.take(np.zeros(0, np.int64)), seed)


@pytest.mark.parametrize(("precision", "mean"), [("bfloat16", MARKS), ("bfloat16", PRICES), ("float32", PRICES)])
def test_a_regression_of_large_numbers_is_published(precision: str, mean: float, tmp_path: Path, seed: int) -> None:
    objective, data = regression(tmp_path, precision, mean, seed)
    run, pipe = tmp_path / "run", Recorder()
    publish(run, objective.recipe, data, objective, TrainingSummary(), pipe, step=1, first_loss=None)  # type: ignore[arg-type]
    assert (run / "out" / "model" / "merged" / "model.safetensors").exists()


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_large_scores_that_are_other_scores_are_not(share: float) -> None:
    recipe = ours.settled("reward", {}, ours.LORA)
    memory = [torch.tensor([PRICES]), torch.tensor([1.1 * PRICES])]
    parity.check_forward_parity(memory, [1.0001 * scores for scores in memory], recipe)
    for check in (parity.check_files, parity.check_forward_parity):
        with pytest.raises(TrainingError, match="nothing was published"):
            check(memory, [share * scores for scores in memory], recipe)


def test_log_probabilities_of_unlikely_tokens_widen_no_tolerance() -> None:
    recipe = ours.settled("supervised", {}, ours.LORA)
    memory = [torch.tensor([-40.0, -0.5])]
    assert parity.tolerance_elsewhere(memory, recipe) == {"greatest": parity.FORWARD_TOLERANCE}
    with pytest.raises(TrainingError, match="nothing was published"):
        parity.check_files(memory, [torch.tensor([-40.0, -0.501])], recipe)
