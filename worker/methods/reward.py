"""Reward modelling from pairs (Ouyang et al. 2022, arXiv:2203.02155), with margins (arXiv:2307.09288)."""

import torch
from torch.nn import functional

from api.spec.methods.reward import RewardOptions
from worker.engine.model.batches import MicroBatch
from worker.engine.objective import Metrics, Objective
from worker.methods.dpo import reward_metrics
from worker.shared.arrays import Rows


def pair_losses(rewards_R_2: torch.Tensor, margins_R: torch.Tensor | None, centering: float) -> torch.Tensor:
    """[R], of rewards [R, 2]: - log σ(r_w - r_l - m) + c (r_w + r_l)²."""
    differences_R = rewards_R_2[:, 0] - rewards_R_2[:, 1]
    if margins_R is not None:
        differences_R = differences_R - margins_R
    return -functional.logsigmoid(differences_R) + centering * rewards_R_2.sum(1) ** 2


class Reward(Objective):
    def total(self, rows: Rows) -> float:
        return float(len(rows))

    def loss(self, batch: MicroBatch, total: float) -> tuple[torch.Tensor, Metrics]:
        options: RewardOptions = self.options
        rewards_R_2 = self.model.sequence_scores(batch).view(-1, 2)
        margins_R = None if batch.labels is None else batch.labels[:, 0]
        losses_R = pair_losses(rewards_R_2, margins_R, options.centering)
        return losses_R.sum() / total, reward_metrics(rewards_R_2, total)
