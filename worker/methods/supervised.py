"""Supervised fine-tuning: next-token cross-entropy on the supervised tokens."""

import math

import torch

from api.spec.methods.supervised import SupervisedOptions
from worker.engine.model.batches import MicroBatch, total_weight
from worker.engine.model.head import Scoring
from worker.engine.objective import MethodContext, Metrics, Objective
from worker.shared.arrays import Rows

UNIFORM_LOSS_FRACTION = 0.95
"""A loss above this fraction of ln V, the loss of a uniform guess over V tokens, counts as diverged."""
MARGIN_NATS = 1.0
"""How far, in nats, the loss may rise above the training's first loss before it counts as diverged, if the first loss
is already about ln V."""


def cross_entropy(
    logprobs_S: torch.Tensor, correct_S: torch.Tensor, weights_S: torch.Tensor, normalizer: float
) -> tuple[torch.Tensor, Metrics]:
    """Return what a micro-batch adds to L = - Σ_i w_i log p(token_i | tokens before it) / W, and to the token accuracy.

    Each tensor is [S], one value for each supervised token. `normalizer` is W, the sum of the weights over the whole
    optimizer step (or evaluation), so the sums over the step's micro-batches give the same loss and gradient however
    the step is split. If each micro-batch were averaged by itself, tokens of small micro-batches would weigh more.
    """
    loss = -(weights_S * logprobs_S).sum() / normalizer
    accuracy = (weights_S * correct_S).sum() / normalizer
    return loss, {"mean_token_accuracy": accuracy}


class Supervised(Objective):
    options: SupervisedOptions

    def __init__(self, context: MethodContext) -> None:
        super().__init__(context)
        self.scoring = Scoring(smoothing=self.options.label_smoothing)
        if self.options.neftune_alpha:
            self.model.add_noise(self.options.neftune_alpha)

    def normalizer(self, rows: Rows) -> float:
        return total_weight(rows)

    def loss(self, batch: MicroBatch, normalizer: float) -> tuple[torch.Tensor, Metrics]:
        # Label smoothing regularizes training only: an evaluation reports the plain cross-entropy.
        scores = self.model.token_scores(batch, self.scoring if torch.is_grad_enabled() else Scoring())
        return cross_entropy(scores.smoothed_logprobs, scores.correct, batch.weights, normalizer)

    def divergence_threshold(self, first_loss: float | None) -> float:
        """Return 0.95 ln V: a model with a higher loss guesses about uniformly, so it has forgotten its pretraining.
        Return the first loss plus MARGIN_NATS if that is higher."""
        return max(UNIFORM_LOSS_FRACTION * math.log(self.model.vocabulary), (first_loss or 0.0) + MARGIN_NATS)
