"""Reward modeling from pairs (Ouyang et al. 2022, arXiv:2203.02155), with margins (Llama 2, arXiv:2307.09288)."""

import torch
from torch.nn import functional

from api.spec.methods.reward import RewardOptions
from worker.engine.model.batches import MicroBatch
from worker.engine.objective import Metrics, Objective
from worker.methods.dpo import reward_metrics
from worker.shared.arrays import Rows


def pair_losses(rewards_R_2: torch.Tensor, margins_R: torch.Tensor | None, centering: float) -> torch.Tensor:
    """Return the loss of each pair, [R]: - log σ(r_w - r_l - m) + c (r_w + r_l)².

    `rewards_R_2`: the rewards r_w and r_l of the chosen and the rejected answer, [R, 2]. `margins_R`: m, [R]; None if
    all margins are 0. `centering`: c.
    """
    differences_R = rewards_R_2[:, 0] - rewards_R_2[:, 1]
    if margins_R is not None:
        differences_R = differences_R - margins_R
    # Only differences enter the first term, so a constant could be added to all rewards. The second term keeps the
    # rewards' mean at zero (Eisenstein et al. 2023, arXiv:2312.09244).
    return -functional.logsigmoid(differences_R) + centering * rewards_R_2.sum(1) ** 2


class Reward(Objective):
    options: RewardOptions

    def normalizer(self, rows: Rows) -> float:
        return float(len(rows))

    def loss(self, batch: MicroBatch, normalizer: float) -> tuple[torch.Tensor, Metrics]:
        rewards_R_2 = self.model.sequence_scores(batch).view(-1, 2)
        margins_R = None if batch.labels is None else batch.labels[:, 0]
        losses_R = pair_losses(rewards_R_2, margins_R, self.options.centering)
        return losses_R.sum() / normalizer, reward_metrics(rewards_R_2, normalizer)
