"""Simple preference optimisation (Meng et al. 2024, arXiv:2405.14734)."""

import torch
from torch.nn import functional

from api.spec.methods.simpo import SimpoOptions
from worker.engine.model.batches import MicroBatch
from worker.engine.objective import Metrics, Objective, answer_sums
from worker.methods.dpo import reward_metrics
from worker.shared.arrays import Rows


def margin_losses(logprobs_R_2: torch.Tensor, beta: float, margin: float) -> torch.Tensor:
    """[R], of mean log-probabilities per token [R, 2]: - log σ(β log P(y_w) - β log P(y_l) - γ)."""
    return -functional.logsigmoid(beta * (logprobs_R_2[:, 0] - logprobs_R_2[:, 1]) - margin)


class Simpo(Objective):
    def total(self, rows: Rows) -> float:
        return float(len(rows))

    def loss(self, batch: MicroBatch, total: float) -> tuple[torch.Tensor, Metrics]:
        options: SimpoOptions = self.options
        logprobs_R_2 = answer_sums(self.model.token_scores(batch).smoothed_logprobs, batch, mean=True).view(-1, 2)
        losses_R = margin_losses(logprobs_R_2, options.beta, options.margin)
        return losses_R.sum() / total, reward_metrics(options.beta * logprobs_R_2, total)
