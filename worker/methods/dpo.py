"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290)."""

from typing import Literal

import torch
from torch.nn import functional

from api.spec.methods.dpo import DpoOptions
from worker.engine.model.batches import MicroBatch
from worker.engine.objective import Floats, Metrics, Objective, answer_sums
from worker.shared.arrays import Rows


def preference_losses(
    ratios_R_2: torch.Tensor, kind: Literal["sigmoid", "ipo", "hinge"], beta: float, smoothing: float = 0.0
) -> torch.Tensor:
    """[R], of log-ratios log π(y) - log π_ref(y) [R, 2] of the preferred answer and the other; m is their difference.

    sigmoid - (1 - ε) log σ(β m) - ε log σ(-β m); ipo (m - 1 / (2 β))², of ratios per token; hinge max(0, 1 - β m).
    """
    margins_R = ratios_R_2[:, 0] - ratios_R_2[:, 1]
    match kind:
        case "sigmoid":
            logits_R = beta * margins_R
            return -(1 - smoothing) * functional.logsigmoid(logits_R) - smoothing * functional.logsigmoid(-logits_R)
        case "ipo":
            return (margins_R - 1 / (2 * beta)) ** 2
        case "hinge":
            return (1 - beta * margins_R).clamp(min=0)


class Dpo(Objective):
    has_reference = True

    @property
    def _mean(self) -> bool:
        options: DpoOptions = self.options
        return options.length_normalized or options.loss == "ipo"

    def reference(self, rows: Rows) -> Floats:
        return self.answer_logprobs(rows, mean=self._mean)

    def total(self, rows: Rows) -> float:
        return float(len(rows))

    def loss(self, batch: MicroBatch, total: float) -> tuple[torch.Tensor, Metrics]:
        options: DpoOptions = self.options
        scores = self.model.token_scores(batch)
        policy_R_2 = answer_sums(scores.smoothed_logprobs, batch, mean=self._mean).view(-1, 2)
        ratios_R_2 = policy_R_2 - batch.per_row["reference"]
        losses_R = preference_losses(ratios_R_2, options.loss, options.beta, options.label_smoothing)
        if options.rpo_alpha:
            per_token_R = answer_sums(scores.smoothed_logprobs, batch, mean=True).view(-1, 2)[:, 0]
            losses_R = losses_R - options.rpo_alpha * per_token_R
        return losses_R.sum() / total, reward_metrics(options.beta * ratios_R_2, total)

    def compare(self, rows: Rows) -> dict[str, float]:
        """Rewards are measured from the model of step 0, which has none. What both models have is a preference: in how
        many pairs the preferred answer is the likelier one, per token."""
        logprobs_R_2 = self.answer_logprobs(rows, mean=True)
        preferred = float((logprobs_R_2[:, 0] > logprobs_R_2[:, 1]).mean())
        return {"loss": self.evaluate(rows)["loss"], "preference_accuracy": preferred}


def reward_metrics(rewards_R_2: torch.Tensor, total: float) -> Metrics:
    """The metrics people watch, of the rewards of the preferred answer and the other, [R, 2]."""
    rewards_R_2 = rewards_R_2.detach()
    margins_R = rewards_R_2[:, 0] - rewards_R_2[:, 1]
    return {
        "rewards_chosen": rewards_R_2[:, 0].sum() / total,
        "rewards_rejected": rewards_R_2[:, 1].sum() / total,
        "rewards_margin": margins_R.sum() / total,
        "rewards_accuracy": (margins_R > 0).float().sum() / total,
    }
