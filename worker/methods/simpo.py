"""Simple preference optimization (Meng et al. 2024, arXiv:2405.14734)."""

import torch
from torch.nn import functional

from api.spec.methods.simpo import SimpoOptions
from worker.engine.model.batches import MicroBatch
from worker.engine.objective import Metrics, Objective, reduce_by_sequence
from worker.methods.dpo import reward_metrics
from worker.shared.arrays import Rows


def margin_losses(logprobs_R_2: torch.Tensor, beta: float, margin: float) -> torch.Tensor:
    """Return the loss of each pair, [R]: - log σ(β log P(y_w) - β log P(y_l) - γ).

    `logprobs_R_2`: log P of the chosen answer y_w and of the rejected y_l, means over their tokens, [R, 2]. The mean
    replaces DPO's log-ratio: no reference model is needed, and an answer gains nothing by its length. `margin`: γ.
    """
    return -functional.logsigmoid(beta * (logprobs_R_2[:, 0] - logprobs_R_2[:, 1]) - margin)


class Simpo(Objective):
    options: SimpoOptions

    def normalizer(self, rows: Rows) -> float:
        return float(len(rows))

    def loss(self, batch: MicroBatch, normalizer: float) -> tuple[torch.Tensor, Metrics]:
        beta = self.options.beta
        logprobs_R_2 = reduce_by_sequence(self.model.token_scores(batch).smoothed_logprobs, batch, mean=True).view(
            -1, 2
        )
        losses_R = margin_losses(logprobs_R_2, beta, self.options.margin)
        return losses_R.sum() / normalizer, reward_metrics(beta * logprobs_R_2, normalizer)
