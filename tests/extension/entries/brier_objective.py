"""The torch side of `brier`."""

import torch

from worker.engine.model.batches import MicroBatch
from worker.engine.objective import Metrics, Objective, supervised_mean, total_weight
from worker.shared.arrays import Rows


class Brier(Objective):
    def total(self, rows: Rows) -> float:
        return total_weight(rows)

    def loss(self, batch: MicroBatch, total: float) -> tuple[torch.Tensor, Metrics]:
        probabilities_S = self.model.token_scores(batch).smoothed_logprobs.exp()
        losses_S = (1 - probabilities_S) ** self.options.exponent
        return supervised_mean(losses_S, batch, total), {}
