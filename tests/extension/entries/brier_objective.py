"""The torch side of `brier`."""

from typing import Any

import torch

from worker.engine.model.batches import MicroBatch, total_weight
from worker.engine.objective import Metrics, Objective
from worker.shared.arrays import Rows


class Brier(Objective):
    options: Any  # BrierOptions, once both files are in their folders

    def normalizer(self, rows: Rows) -> float:
        return total_weight(rows)

    def loss(self, batch: MicroBatch, normalizer: float) -> tuple[torch.Tensor, Metrics]:
        probabilities_S = self.model.token_scores(batch).smoothed_logprobs.exp()
        losses_S = (1 - probabilities_S) ** self.options.exponent
        return (batch.weights * losses_S).sum() / normalizer, {}
