"""The rows that a job trains and evaluates on: its arrays, cut and split as its recipe says."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from api.lifecycle import FailureReason
from api.recipe import ResolvedRecipe
from worker.arrays import Rows, load_rows, split
from worker.engine.stopping import TrainingError

EVALUATED_ROWS = 256
"""Validation rows at each evaluation; all of them at each epoch's end."""


@dataclass(frozen=True)
class Data:
    train: Rows
    validation: Rows
    """Without rows if there is nothing to validate on."""

    @property
    def few_validation(self) -> Rows:
        return self.validation.take(np.arange(min(EVALUATED_ROWS, len(self.validation))))


def load_data(folder: Path, recipe: ResolvedRecipe) -> Data:
    train, _, _ = load_rows(folder / "train.safetensors").truncate(recipe.max_length)
    train, validation = split(train, recipe.validation_split, recipe.seed)
    path = folder / "validation.safetensors"
    if path.exists():
        validation, _, _ = load_rows(path).truncate(recipe.max_length)
    if -(-len(train) // recipe.batch_size) != recipe.steps_per_epoch:
        raise TrainingError(FailureReason.INTERNAL) from ValueError(
            f"{len(train)} rows in batches of {recipe.batch_size} are not {recipe.steps_per_epoch} steps"
        )
    return Data(train, validation)
