"""Retries with half the micro-batch when memory runs out."""

from collections.abc import Callable
from typing import TypeVar

import torch

from api.estimate.machine_fields import HALVINGS
from api.spec.lifecycle import FailureReason
from worker.engine.errors import TrainingError, is_out_of_memory
from worker.engine.model.trainable import TrainableModel
from worker.engine.objective import Objective
from worker.shared.arrays import Rows

T = TypeVar("T")


def retry_with_smaller_batch(
    act: Callable[[], T], objective: Objective, rows: Rows, where: str, warn: Callable[[str], None]
) -> T:
    """Return the result of `act`. If memory runs out, halve `objective.budget_tokens`, restore the random generators
    and call `act` again, until it succeeds.

    Raise TrainingError once the budget would be less than an eighth of the recipe's. `where`: the end of the warning's
    sentence, such as "at step 3".
    """
    model, recipe_budget = objective.model, objective.recipe.micro_batch_tokens
    assert recipe_budget != "auto", "the micro-batch is resolved before the first step"
    on_gpu = model.device.type == "cuda"
    rng = torch.get_rng_state(), torch.cuda.get_rng_state() if on_gpu else None
    while True:
        try:
            return act()
        except (RuntimeError, MemoryError, OSError) as error:
            if not is_out_of_memory(error):
                raise
        # This runs after the `except` block, in which the traceback keeps the failed pass's activations alive.
        _free_gradients(model)
        halved = objective.budget_tokens // 2
        if halved < recipe_budget >> HALVINGS or halved == 0:
            raise TrainingError(FailureReason.OUT_OF_MEMORY, _message(objective, rows, where))
        warn(f"Out of memory {where}: continuing with micro-batches of {halved} tokens.")
        objective.budget_tokens = halved
        torch.set_rng_state(rng[0])
        if rng[1] is not None:
            torch.cuda.set_rng_state(rng[1])


def _free_gradients(model: TrainableModel) -> None:
    for parameters in (model.trained, model.masters):
        for parameter in parameters.values():
            parameter.grad = None
    if model.device.type == "cuda":
        torch.cuda.empty_cache()


def _message(objective: Objective, rows: Rows, where: str) -> str:
    return (
        f"Training ran out of memory {where}, even with micro-batches of {objective.budget_tokens} tokens ("
        f"{objective.recipe.micro_batch_tokens} at first). The longest example has {int(rows.lengths.max())} tokens. "
        "Lower training.max_length, or choose a smaller base model or technique."
    )
