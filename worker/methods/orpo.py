"""Odds-ratio preference optimization (Hong et al. 2024, arXiv:2403.07691)."""

import torch
from torch.nn import functional

from api.spec.methods.orpo import OrpoOptions
from worker.engine.model.batches import MicroBatch
from worker.engine.objective import Metrics, Objective, reduce_by_sequence
from worker.methods.dpo import reward_metrics
from worker.shared.arrays import Rows


def odds_ratio_losses(logprobs_R_2: torch.Tensor, weight: float) -> torch.Tensor:
    """Return the loss of each pair, [R]: - log P(y_w) - λ log σ(log odds(y_w) - log odds(y_l)), odds = P / (1 - P).

    `logprobs_R_2`: log P of the chosen answer y_w and of the rejected y_l, means over their tokens, [R, 2].
    `weight`: λ.
    """
    # log odds = log P - log(1 - P). P is clamped below 1, where the odds are infinite.
    log_odds_R_2 = logprobs_R_2 - torch.log1p(-logprobs_R_2.exp().clamp(max=1 - 1e-7))
    return -logprobs_R_2[:, 0] - weight * functional.logsigmoid(log_odds_R_2[:, 0] - log_odds_R_2[:, 1])


class Orpo(Objective):
    """There is no reference model: the first term of the loss, supervised fine-tuning on the chosen answer, keeps the
    policy close to the data."""

    options: OrpoOptions

    def normalizer(self, rows: Rows) -> float:
        return float(len(rows))

    def loss(self, batch: MicroBatch, normalizer: float) -> tuple[torch.Tensor, Metrics]:
        weight = self.options.odds_ratio_weight
        logprobs_R_2 = reduce_by_sequence(self.model.token_scores(batch).smoothed_logprobs, batch, mean=True).view(
            -1, 2
        )
        losses_R = odds_ratio_losses(logprobs_R_2, weight)
        metrics = reward_metrics(weight * logprobs_R_2, normalizer)
        nll_loss = -logprobs_R_2[:, 0].detach().sum() / normalizer
        return losses_R.sum() / normalizer, {"nll_loss": nll_loss, **metrics}
