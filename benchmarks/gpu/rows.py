"""Rows and recipes for random models."""

from typing import Any

import numpy as np

from api.spec.recipe import Recipe
from api.spec.resolve import ResolvedRecipe, resolve
from worker.shared.arrays import Rows


def random_rows(lengths: list[int], vocabulary: int) -> Rows:
    """Return rows of random tokens. The second half of each row is supervised."""
    ends = np.cumsum(lengths)
    tokens = np.random.default_rng(0).integers(3, vocabulary, ends[-1]).astype(np.int32)
    weights = np.concatenate([np.arange(length) >= length // 2 for length in lengths]).astype(np.float32)
    return Rows(tokens, weights, ends - np.array(lengths), ends)


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
