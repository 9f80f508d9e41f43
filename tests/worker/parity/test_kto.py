"""KTO against TRL's trainer, which is handed the mismatched pairs that ours has drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trl import KTOConfig, KTOTrainer

from tests.worker.parity import ours, trl
from worker.methods import Objective
from worker.shared.arrays import Rows

COLUMNS = ["prompt", "completion", "label"]


def _examples(rows: Rows) -> list[dict[str, Any]]:
    """As TRL's collator takes them: each row's own answer, and the mismatched one to the same prompt."""
    assert rows.labels is not None
    found: list[dict[str, Any]] = []
    for row, label in enumerate(rows.labels[:, 0]):
        (own, weights), (mismatched, _) = rows.sequence(2 * row), rows.sequence(2 * row + 1)
        prompt = int((weights == 0).sum())
        found.append(
            {
                "prompt_ids": own[:prompt].tolist(),
                "completion_ids": own[prompt:].tolist(),
                "KL_completion_ids": mismatched[prompt:].tolist(),
                "label": bool(label),
            }
        )
    return found


def _moved(objective: Objective, rows: Rows, *, away: bool) -> Rows:
    """Change the weights until the estimated divergence is (or is not) above zero; the update's rows."""
    begun = [parameter.detach().clone() for parameter in objective.model.trained.values()]
    while True:
        with torch.no_grad():  # each try begins at the reference, or a walk may never come back
            for parameter, start in zip(objective.model.trained.values(), begun, strict=True):
                parameter.copy_(start)
        ours.change_weights(objective)
        (update,) = objective.updates(rows, 1)
        if (objective.extra_metrics["kl"] > 0) == away:
            return update


@pytest.mark.parametrize("away", [True, False], ids=["positive divergence", "divergence cut at zero"])
def test_the_loss_is_trls(away: bool, tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    options = {"beta": 0.3, "desirable_weight": 1.2, "undesirable_weight": 0.7}
    objective = ours.begin(tiny_llama, tmp_path / "run", ours.settled("kto", options))
    reference = ours.in_transformers(objective)
    answers = [ours.answering(ours.drawn(rng, 1, 8), ours.drawn(rng, 1, 6)) for _ in range(6)]
    rows = objective.with_reference(objective.prepare(ours.rows_of(answers, labels=[1, 0, 0, 1, 1, 0])))
    update = _moved(objective, rows, away=away)
    policy = ours.in_transformers(objective)
    trainer = trl.trainer(
        KTOTrainer,
        KTOConfig,
        tiny_llama,
        tmp_path / "trl",
        policy,
        columns=COLUMNS,
        ref_model=reference,
        loss_type="kto",
        **options,
    )
    expected = trl.loss_and_gradients(trainer, trainer.data_collator(_examples(rows)))
    ours.assert_equal(ours.loss_and_gradients(objective, update), expected)
    found, logged = objective.evaluate(rows).others, trainer._metrics["eval"]
    rewards = [found["rewards_desirable"], found["rewards_undesirable"]]
    assert rewards == pytest.approx([logged["rewards/chosen"][0], logged["rewards/rejected"][0]], abs=1e-5)


def test_every_answer_is_mismatched_once_to_another_prompt(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    """As in the paper's estimate, whose answers are those of the data; TRL shifts by one within each batch."""
    rng = np.random.default_rng(seed)
    objective = ours.begin(tiny_llama, tmp_path / "run", ours.settled("kto", {}))
    answers = [ours.answering(ours.drawn(rng, 3, 8), ours.drawn(rng, 4, 6)) for _ in range(6)]
    examples = _examples(objective.prepare(ours.rows_of(answers, labels=[1] * 6)))
    own = [tuple(example["completion_ids"]) for example in examples]
    mismatched = [tuple(example["KL_completion_ids"]) for example in examples]
    assert sorted(own) == sorted(mismatched)
    assert all(mine != other for mine, other in zip(own, mismatched, strict=True))
