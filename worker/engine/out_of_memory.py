"""When memory runs out: the same again, with half the micro-batch."""

from collections.abc import Callable
from typing import TypeVar

import torch

from api.estimate.machine import HALVINGS
from api.spec.lifecycle import FailureReason
from worker.engine.errors import TrainingError, out_of_memory
from worker.engine.model.trainable import TrainableModel
from worker.engine.objective import Objective
from worker.shared.arrays import Rows

T = TypeVar("T")


def retry_with_smaller_batch(
    act: Callable[[], T], objective: Objective, rows: Rows, where: str, warn: Callable[[str], None]
) -> T:
    """What `act` gives; when memory runs out, again from its beginning with half of `objective.budget_tokens`, and so
    on. `where`: in the words of the warning, such as "at step 3". Raises TrainingError once it is an eighth."""
    model, at_first = objective.model, objective.recipe.micro_batch_tokens
    assert at_first != "auto", "the micro-batch is resolved before the first step"
    on_gpu = model.device.type == "cuda"
    rng = torch.get_rng_state(), torch.cuda.get_rng_state() if on_gpu else None
    while True:
        try:
            return act()
        except (RuntimeError, MemoryError, OSError) as error:
            if not out_of_memory(error):
                raise
        _forget_gradients(model)
        halved = objective.budget_tokens // 2
        if halved < at_first >> HALVINGS or halved == 0:
            raise TrainingError(FailureReason.OUT_OF_MEMORY, _message(objective, rows, where))
        warn(f"Out of memory {where}: going on with micro-batches of {halved} tokens.")
        objective.budget_tokens = halved
        torch.set_rng_state(rng[0])
        if rng[1] is not None:
            torch.cuda.set_rng_state(rng[1])


def _forget_gradients(model: TrainableModel) -> None:
    """Outside the `except`, so that the failed pass's activations are not kept alive by its traceback."""
    for parameters in (model.trained, model.masters):
        for parameter in parameters.values():
            parameter.grad = None
    if model.device.type == "cuda":
        torch.cuda.empty_cache()


def _message(objective: Objective, rows: Rows, where: str) -> str:
    return (
        f"Training ran out of memory {where}, even with micro-batches of {objective.budget_tokens} tokens (first "
        f"{objective.recipe.micro_batch_tokens}); the longest example there has {int(rows.lengths.max())} tokens. "
        "Lower training.max_length, or choose a smaller base model or technique."
    )
