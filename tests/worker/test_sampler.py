"""Sampling answers in a training."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from tests.worker.parity import ours
from worker.arrays import Rows
from worker.engine.batches import Layout, micro_batches
from worker.engine.sampler import Sampler, read_tokens


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


def test_what_is_said_of_a_token_stays_its_own_beyond_what_float32_counts_to() -> None:
    count, length = (1 << 24) + 9, 8
    ends = np.array([length, count])
    rows = Rows(np.zeros(count, np.int32), np.ones(count, np.float32), ends - length, ends)
    rows.tokens[-length:] = np.arange(1, length + 1)
    layout, device = Layout(packed=True, alone=False, pad_token=None), torch.device("cpu")
    (found,) = read_tokens(
        rows, lambda placed: micro_batches(placed, 64, layout, device), lambda batch: [batch.targets.float()], 1
    )
    assert found[-length:].tolist() == [0, *range(2, length + 1)]  # nothing is said of a first token
