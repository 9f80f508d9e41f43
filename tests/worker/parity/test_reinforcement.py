"""Reinforcement from a grader against TRL's trainers, which are handed the answers that ours has sampled and give them
their own rewards, advantages and log-probabilities.

TRL by default multiplies the divergence by the ratio of new to old probability (DeepSeek-V3.2, arXiv:2512.02556), whose
gradient differs. The papers of these three methods do not, and neither do we: it is switched off here.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from tests.worker.parity import by_hand, ours, rollouts, trl
from worker.engine.generation.rollout_sampler import Answers
from worker.methods import Objective
from worker.shared.arrays import Rows

PROMPTS, GROUP, MAX_TOKENS = 3, 8, 10
GRPO = {"loss_type": "grpo", "scale_rewards": "group", "importance_sampling_level": "token"}
DR_GRPO = {"loss_type": "dr_grpo", "scale_rewards": "none", "importance_sampling_level": "token"}
PAPERS_KL = {"use_bias_correction_kl": False}
SIZES = {"num_generations": GROUP, "per_device_train_batch_size": PROMPTS * GROUP, "max_completion_length": MAX_TOKENS}


def _begin(base: Path, folder: Path, seed: int, **options: Any) -> Objective:
    torch.manual_seed(seed)
    body = {"grader": rollouts.GRADER, "group_size": GROUP, "max_tokens": MAX_TOKENS, **options}
    objective = ours.begin(base, folder / "run", ours.settled("reinforcement", body))
    ours.change_weights(objective)  # away from the reference
    return objective


class _OurAnswers(RLOOTrainer):
    """TRL's, with the answers to be given from outside, as GRPO's `rollout_func` has it."""

    sampled: list[tuple[list[int], list[int]]]

    def _tokenize_prompts(self, prompts: list[str]) -> Any:
        return [prompt for prompt, _ in self.sampled], None, {}

    def _generate_single_turn(self, *_: Any) -> Any:
        return [answer for _, answer in self.sampled]


def _trainer(kind: Any, config: Any, base: Path, folder: Path, objective: Objective, rows: Rows, **options: Any) -> Any:
    sampled = rollouts.answers(rows)

    def answers(*_: Any) -> dict[str, Any]:
        return {
            "prompt_ids": [prompt for prompt, _ in sampled],
            "completion_ids": [answer for _, answer in sampled],
            "logprobs": None,
        }

    def rewards(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [rollouts.reward(base, answer) for answer in completion_ids]

    given = {"rollout_func": answers, **PAPERS_KL} if kind is GRPOTrainer else {}
    model = ours.in_transformers(objective)
    passed = {**given, **SIZES, **options, "reward_funcs": [rewards]}
    trainer = trl.trainer(kind, config, base, folder / "trl", model, columns=["prompt"], **passed)
    trainer.sampled, trainer.current_gradient_accumulation_steps = sampled, 1
    trainer.model.train()
    return trainer


def _scored(trainer: Any) -> Any:
    return trainer._generate_and_score_completions([{"prompt": "a"}] * (PROMPTS * GROUP))


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(("advantage", "trls"), [("grpo", GRPO), ("dr_grpo", DR_GRPO)], ids=["grpo", "dr_grpo"])
def test_the_first_update_is_trls(
    advantage: str, trls: Any, temperature: float, beta: float, tiny_llama: Path, tmp_path: Path, seed: int
) -> None:
    options = {"advantage": advantage, "kl_coefficient": beta, "temperature": temperature}
    objective = _begin(tiny_llama, tmp_path, seed, **options)
    (update,) = objective.updates(rollouts.prompts(seed, PROMPTS), 1)
    trainer = _trainer(
        GRPOTrainer, GRPOConfig, tiny_llama, tmp_path, objective, update, beta=beta, temperature=temperature, **trls
    )
    ours.assert_equal(ours.loss_and_gradients(objective, update), trl.loss_and_gradients(trainer, _scored(trainer)))


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize(("advantage", "trls"), [("grpo", GRPO), ("dr_grpo", DR_GRPO)], ids=["grpo", "dr_grpo"])
def test_a_later_update_is_clipped_as_trls(
    advantage: str, trls: Any, beta: float, tiny_llama: Path, tmp_path: Path, seed: int
) -> None:
    options = {"advantage": advantage, "kl_coefficient": beta, "num_iterations": 2, "clip_range": 0.1}
    objective = _begin(tiny_llama, tmp_path, seed, **options)
    updates = objective.updates(rollouts.prompts(seed, PROMPTS), 1)
    first = next(updates)
    trainer = _trainer(
        GRPOTrainer,
        GRPOConfig,
        tiny_llama,
        tmp_path,
        objective,
        first,
        beta=beta,
        num_iterations=2,
        epsilon=0.1,
        epsilon_high=0.1,
        temperature=1.0,
        **trls,
    )
    inputs = _scored(trainer)
    assert "old_per_token_logps" in inputs
    ours.change_weights(objective)
    trainer.model.load_state_dict(objective.model.network.state_dict())
    ours.assert_equal(ours.loss_and_gradients(objective, next(updates)), trl.loss_and_gradients(trainer, inputs))


def test_rloo_has_trls_gradients(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    """TRL takes the ratio of whole answers and we, to clip them, that of tokens: the values differ, and at the first
    update the gradients do not. Its KL is part of the reward, and here zero."""
    objective = _begin(tiny_llama, tmp_path, seed, advantage="rloo")
    (update,) = objective.updates(rollouts.prompts(seed, PROMPTS), 1)
    options = {"beta": 0.0, "num_iterations": 1, "normalize_advantages": False, "temperature": 1.0}
    trainer = _trainer(_OurAnswers, RLOOConfig, tiny_llama, tmp_path, objective, update, **options)
    _, expected = trl.loss_and_gradients(trainer, _scored(trainer))
    loss, gradients = ours.loss_and_gradients(objective, update)
    ours.assert_equal((loss, gradients), (loss, expected))


def test_rloo_is_the_formula(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    options = {"advantage": "rloo", "kl_coefficient": 0.3, "num_iterations": 2, "clip_range": 0.1}
    objective = _begin(tiny_llama, tmp_path, seed, **options)
    reference = by_hand.in_transformers_at_start(objective)
    old = by_hand.frozen(by_hand.in_float64(objective))
    updates = objective.updates(rollouts.prompts(seed, PROMPTS), 1)
    next(updates)
    ours.change_weights(objective)
    update = next(updates)
    rewards = [rollouts.reward(tiny_llama, answer) for _, answer in rollouts.answers(update)]

    def loss(model: Any) -> torch.Tensor:
        found = [by_hand.answer_logprobs(each, update) for each in (model, old, reference)]
        total = torch.zeros((), dtype=torch.float64)
        for row, (now, then, start) in enumerate(zip(*found, strict=True)):
            group = row - row % GROUP
            others = [rewards[other] for other in range(group, group + GROUP) if other != row]
            advantage = rewards[row] - sum(others) / len(others)
            ratio = (now - then).exp()
            clipped = torch.minimum(ratio * advantage, ratio.clamp(0.9, 1.1) * advantage)
            divergence = (start - now).exp() - (start - now) - 1
            total = total + (-clipped + 0.3 * divergence).sum()
        return total / len(rewards)

    expected = by_hand.loss_and_gradients(by_hand.in_float64(objective), loss)
    ours.assert_equal(ours.loss_and_gradients(objective, update), expected)


def _with_silent_groups(silent: int, base: Path, folder: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An objective, its update, all sampled answers, and their rewards: equal ones in the first `silent` groups."""
    objective = _begin(base, folder, seed, advantage="rloo")
    rewards = np.random.default_rng(seed).random((PROMPTS, GROUP)).astype(np.float32)
    rewards[:silent] = 0.3
    sampled: list[Rows] = []

    def given(answers: Answers, prompts: Rows) -> Any:
        sampled.append(answers.rows)
        return rewards.reshape(-1)

    monkeypatch.setattr(objective, "rewards", given)
    (update,) = objective.updates(rollouts.prompts(seed, PROMPTS), 1)
    assert objective.extra_metrics["silent_groups"] == pytest.approx(silent / PROMPTS)
    return objective, update, sampled[0], rewards.reshape(-1).astype(np.float64)


def test_without_the_silent_groups_the_loss_is_that_of_all_answers(
    tiny_llama: Path, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, update, every, rewards = _with_silent_groups(1, tiny_llama, tmp_path, seed, monkeypatch)
    assert len(update) == (PROMPTS - 1) * GROUP

    def loss(model: Any) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for row, now in enumerate(by_hand.answer_logprobs(model, every)):
            group = slice(row - row % GROUP, row - row % GROUP + GROUP)
            advantage = rewards[row] - (rewards[group].sum() - rewards[row]) / (GROUP - 1)
            total = total - (advantage * (now - now.detach()).exp()).sum()
        return total / len(rewards)

    expected = by_hand.loss_and_gradients(by_hand.in_float64(objective), loss)
    ours.assert_equal(ours.loss_and_gradients(objective, update), expected)


def test_if_all_groups_are_silent_an_update_of_zeros_is_left(
    tiny_llama: Path, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, update, *_ = _with_silent_groups(PROMPTS, tiny_llama, tmp_path, seed, monkeypatch)
    loss, gradients = ours.loss_and_gradients(objective, update)
    assert (len(update), loss) == (1, 0.0)
    assert not any(gradient.any() for gradient in gradients.values())
