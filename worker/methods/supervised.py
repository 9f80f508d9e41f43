"""Supervised fine-tuning: imitate the supervised tokens."""

import math

import torch

from api.spec.methods.supervised import SupervisedOptions
from worker.engine.model.batches import MicroBatch
from worker.engine.model.head import Scoring
from worker.engine.objective import MethodContext, Metrics, Objective, total_weight
from worker.shared.arrays import Rows

NEAR_GUESSING = 0.95
MARGIN_NATS = 1.0
"""How much worse than guessing blindly (or than at the start, whichever is more) is far too high."""


def loss(
    logprobs_S: torch.Tensor, hits_S: torch.Tensor, weights_S: torch.Tensor, total_weight: float
) -> tuple[torch.Tensor, Metrics]:
    """L = - Σ_i w_i log p(token_i | tokens before it) / W: a micro-batch's share of the weighted mean.

    W sums the weights of the whole optimizer step (or evaluation), so that the shares of all its micro-batches add up
    to the same loss and gradient however they are cut. The accuracy is weighted alike.
    """
    share = -(weights_S * logprobs_S).sum() / total_weight
    accuracy = (weights_S * hits_S).sum() / total_weight
    return share, {"mean_token_accuracy": accuracy}


class Supervised(Objective):
    def __init__(self, setting: MethodContext) -> None:
        super().__init__(setting)
        options: SupervisedOptions = self.options
        self.scoring = Scoring(smoothing=options.label_smoothing)
        if options.neftune_alpha:
            self.model.add_noise(options.neftune_alpha)

    def total(self, rows: Rows) -> float:
        return total_weight(rows)

    def loss(self, batch: MicroBatch, total: float) -> tuple[torch.Tensor, Metrics]:
        # Smoothing is for learning: an evaluation tells the loss itself.
        scores = self.model.token_scores(batch, self.scoring if torch.is_grad_enabled() else Scoring())
        return loss(scores.smoothed_logprobs, scores.correct, batch.weights, total)

    def highest_loss(self, first: float | None) -> float:
        """ln V is what guessing blindly costs: a model that is about there has lost what it knew. A base that begins
        there, or worse, is allowed a margin above its own beginning."""
        return max(NEAR_GUESSING * math.log(self.model.vocabulary), (first or 0.0) + MARGIN_NATS)
