"""Rows and recipes for random models."""

from typing import Any

import numpy as np
import numpy.typing as npt

from api.spec.recipe import Recipe
from api.spec.resolve import ResolvedRecipe, resolve
from worker.shared.arrays import Rows


def random_rows(lengths: list[int], vocabulary: int) -> Rows:
    """Return rows of random tokens. The second half of each row is supervised."""
    ends = np.cumsum(lengths)
    tokens = np.random.default_rng(0).integers(3, vocabulary, ends[-1]).astype(np.int32)
    weights = np.concatenate([np.arange(length) >= length // 2 for length in lengths]).astype(np.float32)
    return Rows(tokens, weights, ends - np.array(lengths), ends)


def random_pairs(prompts: list[int], answers: int, vocabulary: int) -> Rows:
    """Return pairs of random tokens, with prompts of these lengths. The pair's answers have `answers` tokens and one
    more, and are supervised."""
    rng = np.random.default_rng(0)
    sequences: list[npt.NDArray[np.int32]] = []
    supervised: list[npt.NDArray[np.bool_]] = []
    for prompt in prompts:
        shared = rng.integers(3, vocabulary, prompt)
        for answer in (answers, answers + 1):
            sequences.append(np.concatenate([shared, rng.integers(3, vocabulary, answer)]).astype(np.int32))
            supervised.append(np.arange(prompt + answer) >= prompt)
    ends = np.cumsum([len(sequence) for sequence in sequences])
    starts = np.concatenate([[0], ends[:-1]])
    return Rows(np.concatenate(sequences), np.concatenate(supervised).astype(np.float32), starts, ends, width=2)


def recipe_for(technique: str, rows: Rows, precision: str, budget: int, *, recompute: bool = False) -> ResolvedRecipe:
    body = {
        "model": "base",
        "training_file": "file-x",
        "technique": {"type": technique},
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 50, "batch_size": len(rows)}}},
    }
    counts: dict[str, Any] = {"max_length": int(rows.lengths.max()), "train_rows": len(rows), "validation_rows": 0}
    resolved = resolve(Recipe.model_validate(body), job_id="gpu", seed=1, **counts)
    hardware = {"precision": precision, "micro_batch_tokens": budget, "gradient_checkpointing": recompute}
    return resolved.model_copy(update=hardware)
