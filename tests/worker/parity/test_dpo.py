"""DPO against TRL's trainer. The reference is the policy at step 0; the policy has moved since."""

from pathlib import Path
from typing import Any

import pytest
import torch
from trl import DPOConfig, DPOTrainer

from tests.worker.parity import by_hand, ours, trl
from tests.worker.parity.ours import FULL, LORA

PAIRS = ["prompt", "chosen", "rejected"]


def _both(base: Path, folder: Path, seed: int, options: Any, *, technique: Any = FULL, **theirs: Any) -> None:
    """Ours on all pairs must be the mean of TRL's on each."""
    pairs = ours.drawn_pairs(seed)
    torch.manual_seed(seed)
    objective = ours.begin(base, folder / "run", ours.settled("dpo", options, technique))
    if technique is LORA:
        ours.change_weights(objective)  # B begins at zero, and would have a gradient alone
    reference = ours.in_transformers(objective)
    if technique is LORA:
        reference = reference.merge_and_unload()
    rows = objective.with_reference(objective.prepare(ours.pair_rows(pairs)))
    ours.change_weights(objective)
    policy = ours.in_transformers(objective)
    trainer = trl.trainer(
        DPOTrainer, DPOConfig, base, folder / "trl", policy, columns=PAIRS, ref_model=reference, **theirs
    )
    expected = trl.loss_and_gradients(trainer, *(trainer.data_collator([pair]) for pair in pairs))
    ours.assert_equal(ours.loss_and_gradients(objective, rows), expected)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge"])
def test_each_loss_is_trls(loss: str, tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    _both(tiny_llama, tmp_path, seed, {"loss": loss}, loss_type=[loss], beta=0.1)


def test_log_ratios_per_token_are_trls_sigmoid_norm(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    options = {"length_normalized": True, "hyperparameters": {"beta": 0.5}}
    _both(tiny_llama, tmp_path, seed, options, loss_type=["sigmoid_norm"], beta=0.5)


def test_the_rpo_term_is_trls_sft_loss_of_each_preferred_answer(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    """TRL averages it over the tokens of a batch, the paper (arXiv:2404.19733) within each answer, as we do: in
    batches of one pair they are the same."""
    _both(
        tiny_llama,
        tmp_path,
        seed,
        {"rpo_alpha": 0.7},
        loss_type=["sigmoid", "sft"],
        loss_weights=[1.0, 0.7],
        beta=0.1,
    )


@pytest.mark.parametrize("loss", ["sigmoid", "hinge"])
def test_what_trl_lacks_is_the_formula(loss: str, tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    """Smoothed labels (Mitchell 2023; TRL's `robust` is another loss) and a hinge of log-ratios per token."""
    smoothing = 0.2 if loss == "sigmoid" else 0.0
    options = {"loss": loss, "label_smoothing": smoothing, "length_normalized": loss == "hinge"}
    torch.manual_seed(seed)
    objective = ours.begin(tiny_llama, tmp_path / "run", ours.settled("dpo", options))
    reference = by_hand.frozen(by_hand.in_float64(objective))
    rows = objective.with_reference(objective.prepare(ours.pair_rows(ours.drawn_pairs(seed))))
    ours.change_weights(objective)

    def formula(policy: Any) -> torch.Tensor:
        both = zip(by_hand.answer_logprobs(policy, rows), by_hand.answer_logprobs(reference, rows), strict=True)
        ratios = [(now - then).mean() if loss == "hinge" else (now - then).sum() for now, then in both]
        x = 0.1 * (torch.stack(ratios[0::2]) - torch.stack(ratios[1::2]))
        if loss == "hinge":
            return (1 - x).clamp(min=0).mean()
        return (-0.8 * torch.log(torch.sigmoid(x)) - 0.2 * torch.log(torch.sigmoid(-x))).mean()

    expected = by_hand.loss_and_gradients(by_hand.in_float64(objective), formula)
    ours.assert_equal(ours.loss_and_gradients(objective, rows), expected)


def test_an_adapter_has_trls_gradients(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    _both(tiny_llama, tmp_path, seed, {}, technique=LORA, loss_type=["sigmoid"], beta=0.1)
