"""ORPO and SimPO, the preference methods without a reference, against TRL's experimental trainers and by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from tests.worker.parity import by_hand, ours, trl
from worker.methods import Objective

PAIRS = ["prompt", "chosen", "rejected"]


def _begin(base: Path, folder: Path, seed: int, method: str, options: Any) -> Objective:
    torch.manual_seed(seed)
    objective = ours.begin(base, folder / "run", ours.settled(method, options))
    ours.change_weights(objective)
    return objective


def _batch(pairs: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """As the collator of these two trainers makes it of rows that it has tokenised."""
    batch: dict[str, torch.Tensor] = {}
    for side in ("chosen", "rejected"):
        sequences = [ours.answering(pair["prompt_ids"], pair[f"{side}_ids"]) for pair in pairs]
        longest = max(len(tokens) for tokens, _ in sequences)
        ids, mask, labels = (torch.full((len(pairs), longest), fill) for fill in (258, 0, -100))
        for row, (tokens, weights) in enumerate(sequences):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
            labels[row, : len(tokens)] = torch.tensor(tokens).masked_fill(torch.tensor(weights) == 0, -100)
        batch |= {f"{side}_input_ids": ids, f"{side}_attention_mask": mask, f"{side}_labels": labels}
    return batch


def test_simpo_is_trls(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    objective = _begin(tiny_llama, tmp_path, seed, "simpo", {"beta": 1.0, "margin": 0.6})
    pairs = ours.drawn_pairs(seed)
    model = ours.in_transformers(objective)
    options: dict[str, Any] = {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 1.0, "simpo_gamma": 0.6}
    trainer = trl.trainer(CPOTrainer, CPOConfig, tiny_llama, tmp_path / "trl", model, columns=PAIRS, **options)
    expected = trl.loss_and_gradients(trainer, _batch(pairs))
    ours.assert_equal(ours.loss_and_gradients(objective, ours.pair_rows(pairs)), expected)


def test_orpo_is_trls(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    """TRL imitates the prompt too, and averages over the tokens of a batch; the paper's likelihood is that of the
    answer, as ours. With prompts of one token, which nothing predicts, and batches of one pair they are the same."""
    objective = _begin(tiny_llama, tmp_path, seed, "orpo", {"odds_ratio_weight": 0.4})
    pairs = ours.drawn_pairs(seed, prompt=1)
    model = ours.in_transformers(objective)
    trainer = trl.trainer(ORPOTrainer, ORPOConfig, tiny_llama, tmp_path / "trl", model, columns=PAIRS, beta=0.4)
    expected = trl.loss_and_gradients(trainer, *(_batch([pair]) for pair in pairs))
    ours.assert_equal(ours.loss_and_gradients(objective, ours.pair_rows(pairs)), expected)


@pytest.mark.parametrize("method", ["orpo", "simpo"])
def test_each_is_its_papers_formula(method: str, tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    options = {"odds_ratio_weight": 0.4} if method == "orpo" else {"beta": 1.0, "margin": 0.6}
    objective = _begin(tiny_llama, tmp_path, seed, method, options)
    rows = ours.pair_rows(ours.drawn_pairs(seed))

    def loss(model: Any) -> torch.Tensor:
        means = torch.stack([found.mean() for found in by_hand.answer_logprobs(model, rows)])
        chosen, rejected = means[0::2], means[1::2]
        if method == "simpo":
            return -torch.log(torch.sigmoid(chosen - rejected - 0.6)).mean()
        odds = means.exp() / (1 - means.exp())
        ratio = odds[0::2] / odds[1::2]
        return (-chosen - 0.4 * torch.log(torch.sigmoid(torch.log(ratio)))).mean()

    expected = by_hand.loss_and_gradients(by_hand.in_float64(objective), loss)
    ours.assert_equal(ours.loss_and_gradients(objective, rows), expected)
