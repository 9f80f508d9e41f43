"""PPO against the papers, in float64 (TRL no longer has it): advantages by their definition as a double sum
(arXiv:1506.02438), the clipped losses (arXiv:1707.06347), rewards of tokens and the coefficient that follows the
divergence (arXiv:1909.08593)."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.worker.parity import by_hand, ours, rollouts
from tests.worker.parity.ours import Gradients
from worker.methods import Objective
from worker.methods.ppo import gae, policy_losses, value_losses, whiten
from worker.shared.arrays import Rows

OPTIONS = {
    "grader": rollouts.GRADER,
    "max_tokens": 10,
    "temperature": 0.8,
    "num_ppo_epochs": 2,
    "clip_range": 0.1,
    "value_clip_range": 0.05,
    "value_coefficient": 0.3,
    "entropy_coefficient": 0.02,
    "discount": 0.97,
    "gae_lambda": 0.9,
    "kl_coefficient": 0.1,
    "missing_eos_penalty": 0.5,
}


def _advantages(rewards: torch.Tensor, values: torch.Tensor, discount: float, gae_lambda: float) -> torch.Tensor:
    """Σ_l (γ λ)^l (r_{t+l} + γ V_{t+l+1} - V_{t+l}) for each t, with V = 0 after the end."""
    after = torch.cat([values[1:], values.new_zeros(1)])
    count = len(rewards)
    return torch.stack(
        [
            sum(  # type: ignore[misc]  # never empty
                (discount * gae_lambda) ** (k - t) * (rewards[k] + discount * after[k] - values[k])
                for k in range(t, count)
            )
            for t in range(count)
        ]
    )


def _whitened(values: torch.Tensor) -> torch.Tensor:
    return (values - values.mean()) / (values.var() + 1e-8).sqrt()


@pytest.mark.parametrize(("discount", "gae_lambda"), [(1.0, 0.95), (0.9, 0.0), (0.97, 1.0), (0.0, 0.5)])
def test_advantages_are_the_double_sum(discount: float, gae_lambda: float, seed: int) -> None:
    rewards, values = np.random.default_rng(seed).normal(size=(2, 15)).astype(np.float32)
    found, returns = gae(rewards, values, discount, gae_lambda)
    expected = _advantages(torch.tensor(rewards).double(), torch.tensor(values).double(), discount, gae_lambda)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(returns, expected.numpy() + values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("keep_mean", [False, True])
def test_whitened_values_have_unit_variance(keep_mean: bool, seed: int) -> None:
    values = np.random.default_rng(seed).normal(3.0, 2.0, 40).astype(np.float32)
    found = whiten(values, keep_mean=keep_mean)
    expected = _whitened(torch.tensor(values).double()).numpy() + (values.mean(dtype=np.float64) if keep_mean else 0.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_policy_is_paid_only_within_the_range_of_the_ratio() -> None:
    ratios, advantages = torch.tensor([0.5, 1.5, 0.5, 1.5, 1.05]), torch.tensor([1.0, 1.0, -1.0, -1.0, 2.0])
    losses, clipped = policy_losses(ratios.log(), torch.zeros(5), advantages, 0.2)
    torch.testing.assert_close(losses, torch.tensor([-0.5, -1.2, 0.8, 1.5, -2.1]))
    assert clipped.tolist() == [0, 1, 1, 0, 0]


def test_a_value_gains_nothing_by_moving_out_of_its_range() -> None:
    old, returns = torch.zeros(3), torch.tensor([1.0, -1.0, 1.0])
    losses = value_losses(torch.tensor([0.5, 0.5, 0.1]), old, returns, 0.2)
    torch.testing.assert_close(losses, torch.tensor([0.5 * 0.8**2, 0.5 * 1.5**2, 0.5 * 0.9**2]))


class _Actor(torch.nn.Module):
    """Policy and value function in float64."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.policy = by_hand.in_float64(objective)
        value_head = objective.model.value_head
        assert value_head is not None
        self.value_head = copy.deepcopy(value_head).double()

    def values(self, tokens: list[int]) -> torch.Tensor:
        """[T - 1]: of what stands before each token but the first."""
        hidden = self.policy.model(input_ids=torch.tensor([tokens])).last_hidden_state[0, :-1]
        found: torch.Tensor = self.value_head(hidden.double())[:, 0]
        return found

    def gradients(self) -> Gradients:
        found = ours.gradients_of(self.policy)
        for name, weight in self.value_head.named_parameters():
            assert weight.grad is not None
            found[f"value_head.{name}"] = weight.grad
        return found


def _experience(actor: _Actor, reference: Any, base: Path, rows: Rows, whiten_rewards: bool) -> list[Any]:
    """(old log-probabilities, old values, advantages, returns, divergence) of each answer."""
    parts, rewards = [], []
    with torch.no_grad():
        for prompt, answer in rollouts.answers(rows):
            tokens, count = prompt + answer, len(answer)
            old = by_hand.logprobs(actor.policy, tokens, 0.8)[-count:]
            spent = old - by_hand.logprobs(reference, tokens, 0.8)[-count:]
            earned = -0.1 * spent
            earned[-1] += rollouts.reward(base, answer) - (0.0 if answer[-1] == rollouts.END else 0.5)
            parts.append((old, actor.values(tokens)[-count:], spent.sum()))
            rewards.append(earned)
    lengths = [len(each) for each in rewards]
    if whiten_rewards:
        joined = torch.cat(rewards)
        rewards = list((_whitened(joined) + joined.mean()).split(lengths))
    raw = [_advantages(earned, values, 0.97, 0.9) for earned, (_, values, _) in zip(rewards, parts, strict=True)]
    white = _whitened(torch.cat(raw)).split(lengths)
    return [
        (old, values, advantage, plain + values, spent)
        for (old, values, spent), plain, advantage in zip(parts, raw, white, strict=True)
    ]


def _loss(actor: _Actor, rows: Rows, experience: list[Any]) -> torch.Tensor:
    losses = []
    for (prompt, answer), (old, old_values, advantages, returns, _) in zip(
        rollouts.answers(rows), experience, strict=True
    ):
        tokens, count = prompt + answer, len(answer)
        everything = by_hand.log_softmax(actor.policy, tokens, 0.8)[-count:]
        ratio = (everything.gather(1, torch.tensor(answer)[:, None])[:, 0] - old).exp()
        policy = -torch.minimum(ratio * advantages, ratio.clamp(0.9, 1.1) * advantages)
        values = actor.values(tokens)[-count:]
        clipped = torch.minimum(torch.maximum(values, old_values - 0.05), old_values + 0.05)
        value = 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
        entropy = -(everything.exp() * everything).sum(-1)
        losses.append(policy + 0.3 * value - 0.02 * entropy)
    return torch.cat(losses).mean()


@pytest.mark.parametrize("whiten_rewards", [False, True])
@pytest.mark.parametrize("update", [1, 2])
def test_an_iteration_is_that_of_the_papers(
    update: int, whiten_rewards: bool, tiny_llama: Path, tmp_path: Path, seed: int
) -> None:
    torch.manual_seed(seed)
    recipe = ours.settled("ppo", OPTIONS | {"whiten_rewards": whiten_rewards})
    objective = ours.begin(tiny_llama, tmp_path / "run", recipe)
    ours.change_weights(objective)
    reference, before = by_hand.in_transformers_at_start(objective), _Actor(objective)
    updates = objective.updates(rollouts.prompts(seed, 12), 1)
    rows = next(updates)
    if update == 2:
        ours.change_weights(objective)
        rows = next(updates)
    experience = _experience(before, reference, tiny_llama, rows, whiten_rewards)
    actor = _Actor(objective)
    loss = _loss(actor, rows, experience)
    loss.backward()
    ours.assert_equal(ours.loss_and_gradients(objective, rows), (loss.item(), actor.gradients()))
    divergence = float(torch.stack([spent for *_, spent in experience]).mean())
    assert objective.extra_metrics["kl"] == pytest.approx(divergence, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("target", [1e-3, 1e3])
def test_the_coefficient_follows_the_divergence(target: float, tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    """β (1 + clip(KL / target - 1, ± 0.2) n / horizon)"""
    torch.manual_seed(seed)
    options = OPTIONS | {"adaptive_kl": {"target": target, "horizon": 100}}
    objective = ours.begin(tiny_llama, tmp_path / "run", ours.settled("ppo", options))
    ours.change_weights(objective, by=0.05)
    next(objective.updates(rollouts.prompts(seed, 12), 1))
    error = min(max(objective.extra_metrics["kl"] / target - 1, -0.2), 0.2)
    assert objective.extra_metrics["kl_coefficient"] == 0.1
    assert objective.state["kl_coefficient"] == pytest.approx(0.1 * (1 + error * 12 / 100))
