"""Sampling answers in a training."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from tests.worker.parity import ours
from worker.engine.sampler import Sampler


def test_a_long_answer_is_told_of_at_every_token(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    """Or the supervisor would take a trainer that samples thousands of tokens for hung."""
    model = ours.begin(tiny_llama, tmp_path / "run", ours.settled("supervised", {})).model
    ticks = []
    model.tick = lambda: ticks.append(1)
    sampler = Sampler(model, Tokenizer.from_file(str(tiny_llama / "tokenizer.json")), set(), pad_token=0)
    prompts = ours.rows_of([(ours.drawn(np.random.default_rng(seed), 1, 8), [0.0] * 8)])
    answers = sampler.sample(prompts, max_tokens=20, temperature=1.0, budget_tokens=64, greedy=True)
    assert len(answers.answers[0]) == 20
    assert len(ticks) >= 20
