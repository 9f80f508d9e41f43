"""Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290)."""

from typing import Literal

import torch
from torch.nn import functional

from api.spec.methods.dpo import DpoOptions
from worker.engine.model.batches import MicroBatch
from worker.engine.objective import EvaluationMetrics, Floats, Metrics, Objective, reduce_by_sequence
from worker.shared.arrays import Rows


def preference_losses(
    log_ratios_R_2: torch.Tensor, kind: Literal["sigmoid", "ipo", "hinge"], beta: float, smoothing: float = 0.0
) -> torch.Tensor:
    """Return the loss of each pair, [R].

    `log_ratios_R_2`: log π(y|x) - log π_ref(y|x) of the chosen and of the rejected answer, [R, 2]. m is the chosen
    answer's log-ratio minus the rejected answer's; ε is the label smoothing:

    - sigmoid: - (1 - ε) log σ(β m) - ε log σ(-β m). DPO; with ε > 0, conservative DPO (Mitchell 2023).
    - ipo: (m - 1 / (2 β))², with log-ratios per token (Azar et al. 2023, arXiv:2310.12036).
    - hinge: max(0, 1 - β m) (SLiC-HF, Zhao et al. 2023, arXiv:2305.10425).
    """
    margins_R = log_ratios_R_2[:, 0] - log_ratios_R_2[:, 1]
    match kind:
        case "sigmoid":
            logits_R = beta * margins_R
            return -(1 - smoothing) * functional.logsigmoid(logits_R) - smoothing * functional.logsigmoid(-logits_R)
        case "ipo":
            return (margins_R - 1 / (2 * beta)) ** 2
        case "hinge":
            return (1 - beta * margins_R).clamp(min=0)


class Dpo(Objective):
    options: DpoOptions

    @property
    def _per_token(self) -> bool:
        """Whether log-ratios are means over an answer's tokens instead of sums. IPO's target 1 / (2 β) is a fixed
        margin. If log-ratios were sums, long answers would exceed that margin by their length alone."""
        return self.options.length_normalized or self.options.loss == "ipo"

    def reference(self, rows: Rows) -> Floats:
        return self.sequence_logprobs(rows, mean=self._per_token)

    def normalizer(self, rows: Rows) -> float:
        return float(len(rows))

    def loss(self, batch: MicroBatch, normalizer: float) -> tuple[torch.Tensor, Metrics]:
        options = self.options
        scores = self.model.token_scores(batch)
        policy_R_2 = reduce_by_sequence(scores.smoothed_logprobs, batch, mean=self._per_token).view(-1, 2)
        # β times the log-ratio is the paper's implicit reward (equation 5). Its partition function Z(x) is the same for
        # both answers and cancels in the margin. The reference is frozen, so its log-probabilities are computed once.
        log_ratios_R_2 = policy_R_2 - batch.per_row["reference"]
        losses_R = preference_losses(log_ratios_R_2, options.loss, options.beta, options.label_smoothing)
        if options.rpo_alpha:
            # DPO can lower the likelihood of both answers, as long as the rejected one's falls faster. The chosen
            # answer's negative log-likelihood per token (arXiv:2404.19733) counters that.
            chosen_R = reduce_by_sequence(scores.smoothed_logprobs, batch, mean=True).view(-1, 2)[:, 0]
            losses_R = losses_R - options.rpo_alpha * chosen_R
        return losses_R.sum() / normalizer, reward_metrics(options.beta * log_ratios_R_2, normalizer)

    def comparison_metrics(self, rows: Rows) -> EvaluationMetrics:
        """Return the loss, and the share of pairs whose chosen answer is likelier per token than the rejected one.
        Rewards cannot compare the models: they are relative to the model of step 0, whose own rewards are therefore all
        zero."""
        logprobs_R_2 = self.sequence_logprobs(rows, mean=True)
        accuracy = float((logprobs_R_2[:, 0] > logprobs_R_2[:, 1]).mean())
        return EvaluationMetrics(self.evaluate(rows).loss, {"preference_accuracy": accuracy})


def reward_metrics(rewards_R_2: torch.Tensor, normalizer: float) -> Metrics:
    """Return the usual metrics of rewards. `rewards_R_2`: the rewards of the chosen and of the rejected answer of R
    pairs."""
    rewards_R_2 = rewards_R_2.detach()
    margins_R = rewards_R_2[:, 0] - rewards_R_2[:, 1]
    return {
        "rewards_chosen": rewards_R_2[:, 0].sum() / normalizer,
        "rewards_rejected": rewards_R_2[:, 1].sum() / normalizer,
        "rewards_margin": margins_R.sum() / normalizer,
        "rewards_accuracy": (margins_R > 0).float().sum() / normalizer,
    }
