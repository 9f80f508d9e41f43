"""Supervised fine-tuning against TRL's trainer, and against the formula where TRL has no such thing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trl import SFTConfig, SFTTrainer

from tests.worker.parity import by_hand, ours, trl
from tests.worker.parity.ours import FULL, LORA
from worker.methods import Objective
from worker.shared.arrays import Rows


def _drawn(seed: int, weights: list[float]) -> Rows:
    """Sequences whose tokens have these weights, at random; each has one that counts."""
    rng = np.random.default_rng(seed)
    sequences = []
    for _ in range(6):
        tokens = ours.drawn(rng, 3, 20)
        sequences.append((tokens, [*rng.choice(weights, len(tokens) - 1), 1.0]))
    return ours.rows_of(sequences)


def _begin(base: Path, folder: Path, seed: int, options: Any, technique: Any = FULL) -> Objective:
    torch.manual_seed(seed)
    objective = ours.begin(base, folder / "run", ours.settled("supervised", options, technique))
    ours.change_weights(objective)
    return objective


def _theirs(objective: Objective, base: Path, folder: Path, rows: Rows, **options: Any) -> Any:
    model = ours.in_transformers(objective)
    columns = ["prompt", "completion"]
    trainer = trl.trainer(SFTTrainer, SFTConfig, base, folder / "trl", model, columns=columns, **options)
    examples = [
        {"input_ids": tokens_T.tolist(), "labels": np.where(weights_T > 0, tokens_T, -100).tolist()}
        for tokens_T, weights_T in rows
    ]
    return trl.loss_and_gradients(trainer, trainer.data_collator(examples))


@pytest.mark.parametrize("technique", [FULL, LORA], ids=["full", "lora"])
def test_the_loss_is_trls(technique: Any, tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    objective, rows = _begin(tiny_llama, tmp_path, seed, {}, technique), _drawn(seed, [0.0, 1.0])
    expected = _theirs(objective, tiny_llama, tmp_path, rows, loss_type="nll")
    ours.assert_equal(ours.loss_and_gradients(objective, rows), expected)


def test_label_smoothing_is_that_of_transformers(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    objective, rows = _begin(tiny_llama, tmp_path, seed, {"label_smoothing": 0.2}), _drawn(seed, [0.0, 1.0])
    expected = _theirs(objective, tiny_llama, tmp_path, rows, loss_type="nll", label_smoothing_factor=0.2)
    ours.assert_equal(ours.loss_and_gradients(objective, rows), expected)


def test_tokens_that_count_for_less_and_smoothing_are_the_formula(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    objective, rows = _begin(tiny_llama, tmp_path, seed, {"label_smoothing": 0.2}), _drawn(seed, [0.0, 0.1, 1.0])

    def loss(model: Any) -> torch.Tensor:
        total, weight = torch.zeros((), dtype=torch.float64), 0.0
        for tokens_T, weights_T in rows:
            weights = torch.tensor(weights_T[1:].tolist(), dtype=torch.float64)
            found = by_hand.log_softmax(model, tokens_T.tolist())
            token = found.gather(1, torch.tensor(tokens_T.tolist())[1:, None])[:, 0]
            total = total - (weights * (0.8 * token + 0.2 * found.mean(-1))).sum()
            weight += float(weights.sum())
        return total / weight

    expected = by_hand.loss_and_gradients(by_hand.in_float64(objective), loss)
    ours.assert_equal(ours.loss_and_gradients(objective, rows), expected)
