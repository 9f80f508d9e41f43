"""Proximal policy optimization for language models (Schulman et al. 2017, arXiv:1707.06347; Ziegler et al. 2019,
arXiv:1909.08593)."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from api.spec.methods.ppo import PpoOptions
from worker.engine.generation.rollout_objective import RolloutObjective
from worker.engine.generation.rollout_sampler import FloatArray, token_values
from worker.engine.model.batches import MicroBatch, total_weight
from worker.engine.model.head import Scoring
from worker.engine.objective import MethodContext, Metrics
from worker.shared.arrays import Rows

EPSILON = 1e-8


def gae(
    rewards_T: FloatArray, values_T: FloatArray, discount: float, gae_lambda: float
) -> tuple[FloatArray, FloatArray]:
    """Return one answer's (advantages, returns), [T] each, by generalized advantage estimation (arXiv:1506.02438).

    A_t = Σ_l (γ λ)^l δ_{t+l} with δ_t = r_t + γ V_{t+1} - V_t, and V = 0 after the last token. The returns, which the
    value function is trained on, are A + V.
    """
    advantages_T = np.zeros_like(rewards_T)
    advantage, next_value = 0.0, 0.0
    for t in range(len(rewards_T) - 1, -1, -1):  # backwards: A_t = δ_t + γ λ A_{t+1}
        delta = rewards_T[t] + discount * next_value - values_T[t]
        advantage = delta + discount * gae_lambda * advantage
        advantages_T[t], next_value = advantage, values_T[t]
    return advantages_T, advantages_T + values_T


def whiten(values: FloatArray, *, keep_mean: bool = False) -> FloatArray:
    """Return the values scaled to unit variance, and shifted to mean zero unless `keep_mean`."""
    mean = values.mean()
    whitened = (values - mean) / np.sqrt(values.var(ddof=1 if len(values) > 1 else 0) + EPSILON)
    scaled: FloatArray = (whitened + mean if keep_mean else whitened).astype(np.float32)
    return scaled


def policy_losses(
    logprobs_S: torch.Tensor, old_S: torch.Tensor, advantages_S: torch.Tensor, clip: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (losses, clipped). A token's loss is - min(ρ A, clip(ρ, 1 - ε, 1 + ε) A) with ρ = π / π_old. `clipped` is
    1.0 where the clipped term is the smaller one, else 0. All tensors are [S]; `clip` is ε.

    The minimum is a pessimistic bound: a ratio outside the range is not rewarded for moving further out, but a ratio
    that made the objective worse is still pulled back.
    """
    ratios_S = (logprobs_S - old_S).exp()
    unclipped_S, clipped_S = -advantages_S * ratios_S, -advantages_S * ratios_S.clamp(1 - clip, 1 + clip)
    return torch.maximum(unclipped_S, clipped_S), (clipped_S > unclipped_S).float().detach()


def value_losses(values_S: torch.Tensor, old_S: torch.Tensor, returns_S: torch.Tensor, clip: float) -> torch.Tensor:
    """Return ½ max((V - R)², (V_clipped - R)²) of each token, [S], with V clipped to within `clip` of its old value."""
    clipped_S = torch.maximum(torch.minimum(values_S, old_S + clip), old_S - clip)
    return 0.5 * torch.maximum((values_S - returns_S) ** 2, (clipped_S - returns_S) ** 2)


class Ppo(RolloutObjective):
    """One step is one iteration: sample answers, score them, and make `num_ppo_epochs` × `minibatches` updates."""

    options: PpoOptions

    def __init__(self, context: MethodContext) -> None:
        options = context.recipe.method.options
        assert isinstance(options, PpoOptions), options
        super().__init__(context, reward_model=options.reward_model, grader=options.grader)
        self.model.add_value_head()
        self.model.snapshot_reference()
        self.state = {"kl_coefficient": options.kl_coefficient}
        # The policy is the distribution that answers are drawn from, so log-probabilities use the temperature, too.
        self._scoring = Scoring(
            temperature=options.temperature, entropies=True, learns_entropies=options.entropy_coefficient > 0
        )
        # For the old policy and the reference, whose entropies nothing needs.
        self._fixed_scoring = Scoring(temperature=options.temperature)

    def updates(self, rows: Rows, step: int) -> Iterator[Rows]:
        experience = self._experience(rows, step)
        rng = np.random.Generator(np.random.PCG64([self.recipe.seed, step]))
        parts = min(self.options.minibatches, len(experience))
        for _ in range(self.options.num_ppo_epochs):
            for part in np.array_split(rng.permutation(len(experience)), parts):
                yield experience.take(part)

    def _experience(self, prompts: Rows, step: int) -> Rows:
        """Return sampled answers with each token's old log-probability, old value, advantage and return, [N] each; 0
        outside of answers."""
        options = self.options
        answers = self.sample(prompts, step)
        rows = answers.rows
        rewards_R = self.rewards(answers, prompts)
        # A cut-off answer may be scored highly for its beginning. The penalty makes the policy learn to end.
        scores_R = rewards_R - options.missing_eos_penalty * ~answers.ended
        old_N, values_N = token_values(rows, self.batches, self._policy_and_values, 2)
        with self.model.reference_weights():
            (reference_N,) = token_values(rows, self.batches, self._logprobs, 1)
        # The KL penalty is part of the reward, not of the loss (arXiv:1909.08593, equation 2): each token pays β times
        # its log-ratio, the k1 estimate of KL(π ‖ π_ref). The answer's score is added at its last token.
        kl_N = old_N - reference_N
        rewards_N = (-self.state["kl_coefficient"] * kl_N).astype(np.float32)
        rewards_N[rows.ends - 1] += scores_R
        answered_N = rows.loss_weights > 0
        if options.whiten_rewards:
            # Rewards keep their mean: shifting them would turn a positive reward into a negative one.
            rewards_N[answered_N] = whiten(rewards_N[answered_N], keep_mean=True)
        advantages_N, returns_N = np.zeros_like(rewards_N), np.zeros_like(rewards_N)
        for row, prompt in enumerate(answers.prompts):
            span = slice(rows.starts[row] + len(prompt), rows.ends[row])
            advantages_N[span], returns_N[span] = gae(
                rewards_N[span], values_N[span], options.discount, options.gae_lambda
            )
        variance = float(returns_N[answered_N].var())
        residual = float((returns_N[answered_N] - values_N[answered_N]).var())
        # Whitened over the whole iteration, so that the size of the updates does not depend on the rewards' scale.
        advantages_N[answered_N] = whiten(advantages_N[answered_N])
        kl = float(kl_N.sum()) / len(rows)
        self.extra_metrics |= {
            "kl": kl,
            "kl_coefficient": self.state["kl_coefficient"],
            "explained_variance": 1 - residual / variance if variance > EPSILON else 0.0,
        }
        self._adapt_kl_coefficient(kl, len(rows))
        self.report_samples(step, answers, rewards_R)
        per_token = {"old": old_N, "old_values": values_N, "advantages": advantages_N, "returns": returns_N}
        return replace(rows, per_token=per_token)

    def _policy_and_values(self, batch: MicroBatch) -> list[torch.Tensor]:
        scores, values_S = self.model.scores_and_values(batch, self._fixed_scoring)
        assert values_S is not None
        return [scores.smoothed_logprobs, values_S]

    def _logprobs(self, batch: MicroBatch) -> list[torch.Tensor]:
        return [self.model.token_scores(batch, self._fixed_scoring).smoothed_logprobs]

    def _adapt_kl_coefficient(self, kl: float, answers: int) -> None:
        """Set β ← β (1 + clip(KL / target - 1, ± 0.2) n / horizon) (arXiv:1909.08593, section 2.2)."""
        adaptive = self.options.adaptive_kl
        if adaptive is not None:
            error = min(0.2, max(-0.2, kl / adaptive.target - 1))
            self.state["kl_coefficient"] *= 1 + error * answers / adaptive.horizon

    def normalizer(self, rows: Rows) -> float:
        return total_weight(rows)

    def loss(self, batch: MicroBatch, normalizer: float) -> tuple[torch.Tensor, Metrics]:
        """Return L = - L^CLIP + c_1 L^VF - c_2 H (arXiv:1707.06347, equation 9), means over the answers' tokens."""
        options, old = self.options, batch.per_token
        scores, values_S = self.model.scores_and_values(batch, self._scoring)
        assert values_S is not None
        policy_S, clipped_S = policy_losses(scores.smoothed_logprobs, old["old"], old["advantages"], options.clip_range)
        value_S = value_losses(values_S, old["old_values"], old["returns"], options.value_clip_range)
        policy = policy_S.sum() / normalizer
        value = value_S.sum() / normalizer
        entropy = scores.entropies.sum() / normalizer
        loss = policy + options.value_coefficient * value - options.entropy_coefficient * entropy
        return loss, {
            "policy_loss": policy,
            "value_loss": value,
            "entropy": entropy,
            "clip_fraction": clipped_S.sum() / normalizer,
        }
