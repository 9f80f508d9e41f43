"""Group-relative policy optimization (Shao et al. 2024, arXiv:2402.03300), and two variants of it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from api.spec.fields import AUTO
from api.spec.methods.reinforcement import ReinforcementOptions
from worker.engine.generation.rollout_objective import RolloutObjective
from worker.engine.generation.rollout_sampler import token_values
from worker.engine.model.batches import MicroBatch
from worker.engine.model.head import Scoring
from worker.engine.objective import MethodContext, Metrics
from worker.methods.ppo import policy_losses
from worker.shared.arrays import Rows

EPSILON = 1e-4

Variant = Literal["grpo", "dr_grpo", "rloo"]


def group_advantages(rewards_P_G: npt.NDArray[np.float64], variant: Variant) -> npt.NDArray[np.float64]:
    """Return the advantages [P, G] of G answers to each of P prompts, from their rewards r.

    - grpo: (r - mean) / (std + 1e-4) of the group, with the sample standard deviation.
    - dr_grpo: r - mean (Liu et al. 2025, arXiv:2503.20783). Without the division, prompts that are too easy or too hard
      do not weigh more than others.
    - rloo: r - the mean reward of the group's other answers (Ahmadian et al. 2024, arXiv:2402.14740), an unbiased
      baseline.
    """
    centered: npt.NDArray[np.float64] = rewards_P_G - rewards_P_G.mean(1, keepdims=True)
    if variant == "grpo":
        centered /= rewards_P_G.std(1, ddof=1, keepdims=True) + EPSILON
    elif variant == "rloo":
        answers = rewards_P_G.shape[1]
        centered *= answers
        centered /= answers - 1
    return centered


def divergences(logprobs_S: torch.Tensor, reference_S: torch.Tensor) -> torch.Tensor:
    """Return the k3 estimate of KL(π ‖ π_ref) at each token, [S]: π_ref / π - log(π_ref / π) - 1. The estimate is
    unbiased and, unlike the log-ratio itself, never negative."""
    log_ratios_S = reference_S - logprobs_S
    return log_ratios_S.exp() - log_ratios_S - 1


def without_silent(rows: Rows, silent_R: npt.NDArray[np.bool_]) -> Rows:
    """Return the rows without those of silent groups, whose answers all have the same reward: their advantage, and so
    their gradient, is 0. The other advantages are scaled so that the loss, a mean over the rows, stays the same.

    If all groups are silent, the shortest row is left, because the optimizer makes a step nevertheless.
    """
    kept = np.flatnonzero(~silent_R)
    if not len(kept):
        kept = np.array([rows.lengths.argmin()])
    advantages_R = rows.per_row["advantages"] * np.float32(len(kept) / len(rows))
    return replace(rows, per_row={"advantages": advantages_R}).take(kept)


class Reinforcement(RolloutObjective):
    """One step: sample a group of answers to each prompt, score them, and make `num_iterations` updates.

    The group's mean reward is the baseline, in place of PPO's value function.
    """

    options: ReinforcementOptions

    def __init__(self, context: MethodContext) -> None:
        options = context.recipe.method.options
        assert isinstance(options, ReinforcementOptions), options
        super().__init__(context, reward_model=None, grader=options.grader)
        self._scoring = Scoring(temperature=options.temperature, entropies=True)
        # For the old policy and the reference, whose entropies nothing needs.
        self._fixed_scoring = Scoring(temperature=options.temperature)
        if self.recipe.method.keeps_reference:
            self.model.snapshot_reference()
        samples = options.hyperparameters.eval_samples
        self.eval_samples = 1 if samples == AUTO else samples

    def updates(self, rows: Rows, step: int) -> Iterator[Rows]:
        options = self.options
        group = options.num_generations
        prompts = rows.take(np.repeat(np.arange(len(rows)), group))
        answers = self.sample(prompts, step)
        rewards_R = self.rewards(answers, prompts)
        rewards_P_G = rewards_R.reshape(-1, group).astype(np.float64)
        silent_P = (rewards_P_G == rewards_P_G[:, :1]).all(1)
        advantages_R = group_advantages(rewards_P_G, options.advantage).reshape(-1)
        experience = replace(answers.rows, per_row={"advantages": advantages_R.astype(np.float32)})
        if not options.kl_coefficient:
            experience = without_silent(experience, np.repeat(silent_P, group))
        per_token = {}
        if options.num_iterations > 1:
            # With a single update π_old is π itself, and `loss` takes it from its own forward pass.
            (per_token["old"],) = token_values(experience, self.batches, self._logprobs, 1)
        if options.kl_coefficient:
            with self.model.reference_weights():
                (per_token["reference"],) = token_values(experience, self.batches, self._logprobs, 1)
        self.extra_metrics["silent_groups"] = float(silent_P.mean())
        self.report_samples(step, answers, rewards_R)
        for _ in range(options.num_iterations):
            yield replace(experience, per_token=per_token)

    def _logprobs(self, batch: MicroBatch) -> list[torch.Tensor]:
        return [self.model.token_scores(batch, self._fixed_scoring).smoothed_logprobs]

    def normalizer(self, rows: Rows) -> float:
        """Return the number of answers, multiplied by `max_tokens` for dr_grpo. Dividing by each answer's own length
        instead of a constant would favor short right answers and long wrong answers."""
        if self.options.advantage == "dr_grpo":
            return float(len(rows) * self.options.max_tokens)
        return float(len(rows))

    def loss(self, batch: MicroBatch, normalizer: float) -> tuple[torch.Tensor, Metrics]:
        """Return the mean over the answers of Σ_t (- min(ρ_t A, clip(ρ_t) A) + β KL_t), with ρ = π / π_old.

        For grpo, the sum over an answer's tokens is divided by the number of these tokens; for dr_grpo, by
        `max_tokens`.
        """
        options = self.options
        scores = self.model.token_scores(batch, self._scoring)
        advantages_S = batch.per_row["advantages"][batch.owners]  # every token has its answer's advantage
        old_S = batch.per_token.get("old", scores.smoothed_logprobs.detach())
        losses_S, clipped_S = policy_losses(scores.smoothed_logprobs, old_S, advantages_S, options.clip_range)
        inverse_lengths_S = 1 / batch.counts()[batch.owners]
        answers = normalizer if options.advantage != "dr_grpo" else normalizer / options.max_tokens
        metrics = {
            "entropy": (scores.entropies * inverse_lengths_S).sum() / answers,
            "clip_fraction": (clipped_S * inverse_lengths_S).sum() / answers,
        }
        if options.kl_coefficient:
            kl_S = divergences(scores.smoothed_logprobs, batch.per_token["reference"])
            losses_S = losses_S + options.kl_coefficient * kl_S
            metrics["kl"] = (kl_S.detach()).sum() / answers
        if options.advantage == "grpo":
            losses_S = losses_S * inverse_lengths_S
        return losses_S.sum() / normalizer, metrics
