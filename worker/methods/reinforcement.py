"""Group-relative policy optimisation (Shao et al. 2024, arXiv:2402.03300), and two variants of it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from api.spec.fields import AUTO
from api.spec.methods.reinforcement import ReinforcementOptions
from worker.engine.generation.rollout import RolloutObjective
from worker.engine.generation.sampler import token_values
from worker.engine.model.batches import MicroBatch
from worker.engine.model.head import Scoring
from worker.engine.objective import MethodContext, Metrics
from worker.methods.ppo import policy_losses
from worker.shared.arrays import Rows

EPSILON = 1e-4

Variant = Literal["grpo", "dr_grpo", "rloo"]


def group_advantages(rewards_P_G: Any, variant: Variant) -> Any:
    """[P, G], of the rewards of G answers to each of P prompts. grpo (r - mean) / (std + 1e-4), the sample's standard
    deviation; dr_grpo r - mean; rloo r - the mean of the others."""
    centred = rewards_P_G - rewards_P_G.mean(1, keepdims=True)
    if variant == "grpo":
        return centred / (rewards_P_G.std(1, ddof=1, keepdims=True) + EPSILON)
    if variant == "rloo":
        answers = rewards_P_G.shape[1]
        return centred * answers / (answers - 1)
    return centred


def divergences(logprobs_S: torch.Tensor, reference_S: torch.Tensor) -> torch.Tensor:
    """[S]: π_ref / π - log(π_ref / π) - 1, an unbiased estimate of KL(π ‖ π_ref) that is never negative (k3)."""
    log_ratio_S = reference_S - logprobs_S
    return log_ratio_S.exp() - log_ratio_S - 1


class Reinforcement(RolloutObjective):
    def __init__(self, setting: MethodContext) -> None:
        options: ReinforcementOptions = setting.recipe.method.options  # type: ignore[assignment]
        super().__init__(setting, reward_model=None, grader=options.grader)
        self._options = options
        self._scoring = Scoring(temperature=options.temperature, entropies=True)
        if options.kl_coefficient:
            self.model.snapshot_reference()
        samples = options.hyperparameters.eval_samples
        self.eval_samples = 1 if samples == AUTO else samples

    def updates(self, rows: Rows, step: int) -> Iterator[Rows]:
        options = self._options
        group = options.num_generations
        prompts = rows.take(np.repeat(np.arange(len(rows)), group))
        answers = self.sample(prompts)
        rewards_R = self.rewards(answers, prompts)
        advantages_R = group_advantages(rewards_R.reshape(-1, group).astype(np.float64), options.advantage).reshape(-1)
        experience = answers.rows
        known = {}
        if options.num_iterations > 1:
            (known["old"],) = token_values(experience, self.batches, self._logprobs, 1)
        if options.kl_coefficient:
            with self.model.reference_weights():
                (known["reference"],) = token_values(experience, self.batches, self._logprobs, 1)
        self.observed["silent_groups"] = float((rewards_R.reshape(-1, group).std(1) == 0).mean())
        self.report_samples(step, answers, rewards_R)
        per_row = {"advantages": advantages_R.astype(np.float32)}
        for _ in range(options.num_iterations):
            yield replace(experience, per_token=known, per_row=per_row)

    def _logprobs(self, batch: MicroBatch) -> list[torch.Tensor]:
        return [self.model.token_scores(batch, self._scoring).smoothed_logprobs]

    def total(self, rows: Rows) -> float:
        if self._options.advantage == "dr_grpo":
            return float(len(rows) * self._options.max_tokens)
        return float(len(rows))

    def loss(self, batch: MicroBatch, total: float) -> tuple[torch.Tensor, Metrics]:
        """Of every token - min(ρ A, clip(ρ) A) + β KL; over an answer their mean (grpo) or sum; over the answers the
        mean (for dr_grpo, of max_tokens each)."""
        options = self._options
        scores = self.model.token_scores(batch, self._scoring)
        advantages_S = batch.per_row["advantages"][batch.owners]
        old_S = batch.per_token.get("old", scores.smoothed_logprobs.detach())
        losses_S, clipped_S = policy_losses(scores.smoothed_logprobs, old_S, advantages_S, options.clip_range)
        shares_S = 1 / batch.counts()[batch.owners]  # every answer counts alike, whatever its length
        rows = total if options.advantage != "dr_grpo" else total / options.max_tokens
        metrics = {
            "entropy": (scores.entropies * shares_S).sum() / rows,
            "clip_fraction": (clipped_S * shares_S).sum() / rows,
        }
        if options.kl_coefficient:
            kl_S = divergences(scores.smoothed_logprobs, batch.per_token["reference"])
            losses_S = losses_S + options.kl_coefficient * kl_S
            metrics["kl"] = (kl_S.detach()).sum() / rows
        if options.advantage == "grpo":
            losses_S = losses_S * shares_S
        return losses_S.sum() / total, metrics
