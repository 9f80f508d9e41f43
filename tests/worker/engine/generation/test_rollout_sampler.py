"""Sampling answers in a training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from tests.tiny_models import make_model
from tests.worker.parity import ours
from worker.engine.generation.rollout_sampler import RolloutSampler, token_values
from worker.engine.model.batches import Layout, micro_batches
from worker.shared.arrays import Rows

TECHNIQUES: list[dict[str, Any]] = [
    {"type": "lora", "rank": 4},
    {"type": "bottleneck"},
    {"type": "prompt", "tokens": 5},
    {"type": "prefix", "tokens": 5},
]


def test_a_long_answer_is_told_of_at_every_token(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    """Or the supervisor would take a trainer that samples thousands of tokens for hung."""
    model = ours.begin(tiny_llama, tmp_path / "run", ours.settled("supervised", {})).model
    ticks = []
    model.keep_alive = lambda: ticks.append(1)
    sampler = RolloutSampler(model, Tokenizer.from_file(str(tiny_llama / "tokenizer.json")), set(), pad_token=0)
    prompts = ours.rows_of([(ours.drawn(np.random.default_rng(seed), 1, 8), [0.0] * 8)])
    answers = sampler.sample(prompts, max_tokens=20, temperature=1.0, budget_tokens=64, greedy=True)
    assert len(answers.answers[0]) == 20
    assert len(ticks) >= 20


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda each: str(each["type"]))
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_every_answer_is_that_of_the_policy_that_learns_from_it(
    family: str, technique: dict[str, Any], tmp_path: Path, seed: int
) -> None:
    """Whatever prompts it was sampled beside: to its own path in training, each token is the likeliest."""
    base = make_model(tmp_path / "base", family, seed)
    objective = ours.begin(base, tmp_path / "run", ours.settled("supervised", {}, technique))
    model = objective.model
    torch.manual_seed(seed)
    ours.change_weights(objective, 0.2)
    rng = np.random.default_rng(seed)
    prompts = ours.rows_of([(ours.drawn(rng, 1, length), [0.0] * length) for length in (30, 3, 9, 14, 9)])
    sampler = RolloutSampler(model, Tokenizer.from_file(str(base / "tokenizer.json")), set(), pad_token=0)
    answers = sampler.sample(prompts, max_tokens=12, temperature=1.0, budget_tokens=1000, greedy=True)
    (likeliest,) = token_values(answers.rows, objective.batches, lambda batch: [model.token_scores(batch).correct], 1)
    assert likeliest[answers.rows.loss_weights > 0].all()


def test_what_is_said_of_a_token_stays_its_own_beyond_what_float32_counts_to() -> None:
    count, length = (1 << 24) + 9, 8
    ends = np.array([length, count])
    rows = Rows(np.zeros(count, np.int32), np.ones(count, np.float32), ends - length, ends)
    rows.tokens[-length:] = np.arange(1, length + 1)
    layout, device = Layout(packed=True, single_row=False, pad_token=None), torch.device("cpu")
    (found,) = token_values(
        rows, lambda placed: micro_batches(placed, 64, layout, device), lambda batch: [batch.targets.float()], 1
    )
    assert found[-length:].tolist() == [0, *range(2, length + 1)]  # nothing is said of a first token
