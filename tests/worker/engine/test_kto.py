"""The mismatched pairs from which KTO estimates the divergence."""

from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.tiny_models import make_tokenizer
from tests.worker.parity import ours
from worker.methods.kto import with_mismatched
from worker.shared.arrays import Rows


def test_a_mismatched_pair_is_no_longer_than_rows_may_be() -> None:
    """A long prompt with another row's long answer would be beyond what the model reads."""
    weights = np.array([0, 0, 0, 0, 0, 1, 0, 1, 1, 1, 1, 1], np.float32)
    rows = Rows(np.arange(12, dtype=np.int32), weights, np.array([0, 6]), np.array([6, 12]))
    both = with_mismatched(rows, seed=0, max_length=6)
    assert [tokens.tolist() for tokens, _ in both][1] == [0, 1, 2, 3, 4, 7]
    assert (both.ends - both.starts).max() == 6


def test_the_reference_reads_each_answer_alone_if_positions_depend_on_the_longest(tmp_path: Path, seed: int) -> None:
    """Otherwise, the policy would differ from its reference before the first step."""
    config = AutoConfig.for_model(
        "phi3", vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, original_max_position_embeddings=16, pad_token_id=0,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 16, "factor": 8.0,
            "short_factor": [1.0] * 4, "long_factor": [7.0] * 4,
        },
    )  # fmt: skip
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    make_tokenizer(tmp_path / "base")
    objective = ours.begin(tmp_path / "base", tmp_path / "run", ours.settled("kto", {}))
    ours.change_weights(objective, by=0.2)
    rng = np.random.default_rng(seed)
    sequences = [ours.answering(ours.drawn(rng, 4, 4), ours.drawn(rng, length, length)) for length in (6, 30, 30, 6)]
    rows = ours.rows_of(sequences, width=2)
    alone = np.stack([objective.sequence_logprobs(rows.column(side))[:, 0] for side in range(2)], 1)
    np.testing.assert_allclose(objective.reference(rows), alone, rtol=1e-5)
