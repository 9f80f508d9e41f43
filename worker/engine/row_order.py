"""The rows that each step trains on, newly shuffled in each epoch."""

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from api.spec.resolve import ResolvedRecipe


def rows_of_step(count: int, batch_size: int, step: int, seed: int) -> npt.NDArray[np.int64]:
    """Return the rows of optimizer step 1, 2, … Each epoch has its own permutation of the rows, and each step takes the
    next `batch_size` rows of it. The last step of an epoch may have fewer."""
    steps_per_epoch = math.ceil(count / batch_size)
    epoch, index = divmod(step - 1, steps_per_epoch)
    return _permutation(count, seed, epoch)[index * batch_size : (index + 1) * batch_size]


def rows_of_steps(count: int, recipe: ResolvedRecipe) -> npt.NDArray[np.int64]:
    """Return the rows that the recipe's steps train on, each once, ascending."""
    if recipe.total_steps * recipe.batch_size >= count:
        return np.arange(count)
    return np.sort(_permutation(count, recipe.seed, 0)[: recipe.total_steps * recipe.batch_size])


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(count)
