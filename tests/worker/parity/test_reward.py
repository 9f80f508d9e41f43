"""Reward models against TRL's trainer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from trl import RewardConfig, RewardTrainer

from tests.worker.parity import ours, trl
from tests.worker.parity.ours import FULL, LORA

PAD = 258
"""Of the tiny model, which is the token that ends a turn, too."""


@pytest.mark.parametrize("technique", [FULL, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("margins", [None, [0.0, 0.5, 1.0, 2.0, 0.1]], ids=["plain", "margins"])
def test_the_loss_is_trls(margins: Any, technique: Any, tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    """Both read a score at the last token that is not the padding's, even of answers that end with it themselves."""
    torch.manual_seed(seed)
    objective = ours.begin(tiny_llama, tmp_path / "run", ours.settled("reward", {"centering": 0.05}, technique))
    ours.change_weights(objective)
    pairs = ours.drawn_pairs(seed)
    pairs[0]["chosen_ids"] += [PAD]
    pairs[1]["rejected_ids"] += [PAD, 7, PAD, PAD]
    whole = [{side: pair["prompt_ids"] + pair[side] for side in ("chosen_ids", "rejected_ids")} for pair in pairs]
    if margins is not None:
        whole = [pair | {"margin": margin} for pair, margin in zip(whole, margins, strict=True)]
    trainer = trl.trainer(
        RewardTrainer,
        RewardConfig,
        tiny_llama,
        tmp_path / "trl",
        ours.in_transformers(objective),
        columns=["chosen", "rejected"],
        center_rewards_coefficient=0.05,
    )
    expected = trl.loss_and_gradients(trainer, trainer.data_collator(whole))
    ours.assert_equal(ours.loss_and_gradients(objective, ours.pair_rows(pairs, margins)), expected)


@pytest.mark.parametrize("technique", ["prompt", "prefix"])
def test_with_virtual_tokens_an_answer_is_scored_as_if_it_were_alone(
    technique: str, tiny_llama: Path, tmp_path: Path, seed: int
) -> None:
    torch.manual_seed(seed)
    recipe = ours.settled("reward", {}, {"type": technique, "tokens": 3})
    objective = ours.begin(tiny_llama, tmp_path / "run", recipe)
    ours.change_weights(objective)
    rows = ours.pair_rows(ours.drawn_pairs(seed))
    model = ours.in_transformers(objective)
    objective.model.train(False)
    with torch.no_grad():
        for batch in objective.batches(rows):
            sides = [rows.sequence(int(row) * 2 + side)[0] for row in batch.rows for side in range(2)]
            expected = [model(input_ids=torch.tensor(tokens_T[None].astype(int))).logits for tokens_T in sides]
            torch.testing.assert_close(objective.model.sequence_scores(batch), torch.cat(expected))
