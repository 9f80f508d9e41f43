"""Odds-ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691)."""

import torch
from torch.nn import functional

from api.spec.methods.orpo import OrpoOptions
from worker.engine.model.batches import MicroBatch
from worker.engine.objective import Metrics, Objective, answer_sums
from worker.methods.dpo import reward_metrics
from worker.shared.arrays import Rows


def odds_ratio_losses(logprobs_R_2: torch.Tensor, weight: float) -> torch.Tensor:
    """[R], of mean log-probabilities per token [R, 2]: - log P(y_w) - λ log σ(log odds(y_w) - log odds(y_l)), with
    odds = P / (1 - P)."""
    odds_R_2 = logprobs_R_2 - torch.log1p(-logprobs_R_2.exp().clamp(max=1 - 1e-7))
    return -logprobs_R_2[:, 0] - weight * functional.logsigmoid(odds_R_2[:, 0] - odds_R_2[:, 1])


class Orpo(Objective):
    def total(self, rows: Rows) -> float:
        return float(len(rows))

    def loss(self, batch: MicroBatch, total: float) -> tuple[torch.Tensor, Metrics]:
        options: OrpoOptions = self.options
        logprobs_R_2 = answer_sums(self.model.token_scores(batch).smoothed_logprobs, batch, mean=True).view(-1, 2)
        losses_R = odds_ratio_losses(logprobs_R_2, options.odds_ratio_weight)
        metrics = reward_metrics(options.odds_ratio_weight * logprobs_R_2, total)
        return losses_R.sum() / total, {"nll_loss": -logprobs_R_2[:, 0].detach().sum() / total, **metrics}
