"""Proximal policy optimisation for language models (Schulman et al. 2017, arXiv:1707.06347; Ziegler et al. 2019,
arXiv:1909.08593)."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from api.spec.methods.ppo import PpoOptions
from worker.engine.generation.rollout import RolloutObjective
from worker.engine.generation.sampler import FloatArray, token_values
from worker.engine.model.batches import MicroBatch, total_weight
from worker.engine.model.head import Scoring
from worker.engine.objective import MethodContext, Metrics
from worker.shared.arrays import Rows

EPSILON = 1e-8


def gae(
    rewards_T: FloatArray, values_T: FloatArray, discount: float, gae_lambda: float
) -> tuple[FloatArray, FloatArray]:
    """(advantages, returns) [T] of one answer: A_t = Σ_l (γ λ)^l δ_{t+l}, δ_t = r_t + γ V_{t+1} - V_t, V = 0 after its
    end; returns are A + V (arXiv:1506.02438)."""
    advantages_T = np.zeros_like(rewards_T)
    ahead, next_value = 0.0, 0.0
    for t in range(len(rewards_T) - 1, -1, -1):
        delta = rewards_T[t] + discount * next_value - values_T[t]
        ahead = delta + discount * gae_lambda * ahead
        advantages_T[t], next_value = ahead, values_T[t]
    return advantages_T, advantages_T + values_T


def whiten(values: FloatArray, *, keep_mean: bool = False) -> FloatArray:
    """To unit variance, and to mean zero or the mean they had."""
    mean = values.mean()
    whitened = (values - mean) / np.sqrt(values.var(ddof=1 if len(values) > 1 else 0) + EPSILON)
    scaled: FloatArray = (whitened + mean if keep_mean else whitened).astype(np.float32)
    return scaled


def policy_losses(
    logprobs_S: torch.Tensor, old_S: torch.Tensor, advantages_S: torch.Tensor, clip: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(losses, 1.0 where the clipped ratio counts), [S]: - min(ρ A, clip(ρ, 1 - ε, 1 + ε) A), ρ = π / π_old."""
    ratios_S = (logprobs_S - old_S).exp()
    plain_S, clipped_S = -advantages_S * ratios_S, -advantages_S * ratios_S.clamp(1 - clip, 1 + clip)
    return torch.maximum(plain_S, clipped_S), (clipped_S > plain_S).float().detach()


def value_losses(values_S: torch.Tensor, old_S: torch.Tensor, returns_S: torch.Tensor, clip: float) -> torch.Tensor:
    """[S]: ½ max((V - R)², (V_clipped - R)²), V_clipped within ε_v of the old value."""
    clipped_S = torch.maximum(torch.minimum(values_S, old_S + clip), old_S - clip)
    return 0.5 * torch.maximum((values_S - returns_S) ** 2, (clipped_S - returns_S) ** 2)


class Ppo(RolloutObjective):
    """A step is one iteration: sample answers, grade them, and make `num_ppo_epochs` × `minibatches` updates."""

    def __init__(self, setting: MethodContext) -> None:
        options: PpoOptions = setting.recipe.method.options  # type: ignore[assignment]
        super().__init__(setting, reward_model=options.reward_model, grader=options.grader)
        self._options = options
        self.model.add_value_head()
        self.model.snapshot_reference()
        self.state = {"kl_coefficient": options.kl_coefficient}
        self._learning = Scoring(
            temperature=options.temperature, entropies=True, learns_entropies=options.entropy_coefficient > 0
        )

    def updates(self, rows: Rows, step: int) -> Iterator[Rows]:
        experience = self._experience(rows, step)
        rng = np.random.Generator(np.random.PCG64([self.recipe.seed, step]))
        parts = min(self._options.minibatches, len(experience))
        for _ in range(self._options.num_ppo_epochs):
            for part in np.array_split(rng.permutation(len(experience)), parts):
                yield experience.take(part)

    def _experience(self, prompts: Rows, step: int) -> Rows:
        """Answers to the prompts, with what every token of them was worth."""
        options = self._options
        answers = self.sample(prompts)
        rows = answers.rows
        judged_R = self.rewards(answers, prompts)
        scores_R = judged_R - options.missing_eos_penalty * ~answers.ended
        old_N, values_N = token_values(rows, self.batches, self._now, 2)
        with self.model.reference_weights():
            (reference_N,) = token_values(rows, self.batches, self._logprobs, 1)
        spent_N = old_N - reference_N  # k1 estimate of the divergence; zero outside of answers
        rewards_N = (-self.state["kl_coefficient"] * spent_N).astype(np.float32)
        last_R = rows.ends - 1
        rewards_N[last_R] += scores_R
        answered = rows.loss_weights > 0
        if options.whiten_rewards:
            rewards_N[answered] = whiten(rewards_N[answered], keep_mean=True)
        advantages_N, returns_N = np.zeros_like(rewards_N), np.zeros_like(rewards_N)
        for row, prompt in enumerate(answers.prompts):
            cut = slice(rows.starts[row] + len(prompt), rows.ends[row])
            advantages_N[cut], returns_N[cut] = gae(rewards_N[cut], values_N[cut], options.discount, options.gae_lambda)
        variance = float(returns_N[answered].var())
        unexplained = float((returns_N[answered] - values_N[answered]).var())
        advantages_N[answered] = whiten(advantages_N[answered])
        kl = float(spent_N.sum()) / len(rows)
        self.observed |= {
            "kl": kl,
            "kl_coefficient": self.state["kl_coefficient"],
            "explained_variance": 1 - unexplained / variance if variance > EPSILON else 0.0,
        }
        self._adapt(kl, len(rows))
        self.report_samples(step, answers, judged_R)
        known = {"old": old_N, "old_values": values_N, "advantages": advantages_N, "returns": returns_N}
        return replace(rows, per_token=known)

    def _now(self, batch: MicroBatch) -> list[torch.Tensor]:
        scores, values_S = self.model.scores_and_values(batch, self._learning)
        assert values_S is not None
        return [scores.smoothed_logprobs, values_S]

    def _logprobs(self, batch: MicroBatch) -> list[torch.Tensor]:
        return [self.model.token_scores(batch, self._learning).smoothed_logprobs]

    def _adapt(self, kl: float, answers: int) -> None:
        """β ← β (1 + clip(KL / target - 1, ± 0.2) n / horizon) (arXiv:1909.08593, section 2.2)."""
        adaptive = self._options.adaptive_kl
        if adaptive is not None:
            error = min(0.2, max(-0.2, kl / adaptive.target - 1))
            self.state["kl_coefficient"] *= 1 + error * answers / adaptive.horizon

    def total(self, rows: Rows) -> float:
        return total_weight(rows)

    def loss(self, batch: MicroBatch, total: float) -> tuple[torch.Tensor, Metrics]:
        """L = - L^CLIP + c_1 L^VF - c_2 H, means over the answers' tokens."""
        options, known = self._options, batch.per_token
        scores, values_S = self.model.scores_and_values(batch, self._learning)
        assert values_S is not None
        policy_S, clipped_S = policy_losses(
            scores.smoothed_logprobs, known["old"], known["advantages"], options.clip_range
        )
        value_S = value_losses(values_S, known["old_values"], known["returns"], options.value_clip_range)
        policy, value, entropy = policy_S.sum() / total, value_S.sum() / total, scores.entropies.sum() / total
        loss = policy + options.value_coefficient * value - options.entropy_coefficient * entropy
        return loss, {
            "policy_loss": policy,
            "value_loss": value,
            "entropy": entropy,
            "clip_fraction": clipped_S.sum() / total,
        }
