"""One optimizer step: micro-batches, gradients, what became of the loss."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from api.lifecycle import FailureReason
from api.recipe import ResolvedRecipe
from worker.arrays import Rows
from worker.engine import failpoint
from worker.engine.batches import micro_batches, rows_of_step
from worker.engine.checkpoint import Progress
from worker.engine.model import TrainableModel
from worker.engine.objective import Metrics, Objective, add, as_numbers
from worker.engine.optimizer import clipped_step, learning_rate
from worker.engine.stopping import TrainingError, out_of_memory

T = TypeVar("T")

MAX_HALVINGS = 3
PATIENCE_STEPS = 3
"""So many steps in a row that are not finite, or far too high, and the training has diverged."""


@dataclass(frozen=True)
class StepResult:
    loss: float
    metrics: dict[str, float]
    grad_norm: float
    learning_rate: float
    tokens: int


@dataclass
class Loop:
    """What a training is made of. `step` is one of its steps."""

    recipe: ResolvedRecipe
    model: TrainableModel
    objective: Objective
    optimizer: torch.optim.AdamW
    train: Rows
    progress: Progress
    warn: Callable[[str], None]

    def step(self) -> StepResult:
        """Optimizer step `progress.step + 1`: one update for most methods, several for those that sample first.
        Each update only waits for the device at its end."""
        step = self.progress.step + 1
        rows = self.train.take(rows_of_step(len(self.train), self.recipe.batch_size, step, self.recipe.seed))
        rate = learning_rate(self.recipe, step)
        sums: Metrics = {}
        tokens = updates = 0
        for update in self._updates(rows, step):
            shares = self._with_less_memory(partial(self._accumulate, update, step), update, step)
            shares["grad_norm"] = clipped_step(self.optimizer, self.recipe.max_grad_norm, rate)
            self.model.round_masters()
            add(sums, shares)
            tokens += int(update.lengths.sum())
            updates += 1
        numbers = {name: value / updates for name, value in as_numbers(sums).items()}
        loss, grad_norm = numbers.pop("loss"), numbers.pop("grad_norm")
        self.progress.step = step
        self.progress.trained_tokens += tokens
        return StepResult(loss, {**numbers, **self.objective.observed}, grad_norm, rate, tokens)

    def _updates(self, rows: Rows, step: int) -> Iterator[Rows]:
        """The objective's updates. Sampling that runs out of memory begins anew, with less of it at once."""

        def begin() -> tuple[Iterator[Rows], Rows]:
            updates = self.objective.updates(rows, step)
            return updates, next(updates)

        updates, first = self._with_less_memory(begin, rows, step)
        yield first
        yield from updates

    def _with_less_memory(self, act: Callable[[], T], rows: Rows, step: int) -> T:
        """What it gives; when memory runs out, again from its beginning with half the micro-batch, and so on."""
        progress, at_first = self.progress, self.recipe.micro_batch_tokens
        assert at_first != "auto", "the micro-batch is resolved before the first step"
        on_gpu = self.model.device.type == "cuda"
        rng = torch.get_rng_state(), torch.cuda.get_rng_state() if on_gpu else None
        while True:
            try:
                return act()
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            _forget_gradients(self.model)
            halved = progress.micro_batch_tokens // 2
            if halved < at_first >> MAX_HALVINGS or halved == 0:
                raise TrainingError(FailureReason.OUT_OF_MEMORY, _memory_message(self.recipe, rows, progress, step))
            self.warn(f"Out of memory at step {step}: going on with micro-batches of {halved} tokens.")
            progress.micro_batch_tokens = self.objective.budget_tokens = halved
            torch.set_rng_state(rng[0])
            if rng[1] is not None:
                torch.cuda.set_rng_state(rng[1])

    def _accumulate(self, rows: Rows, step: int) -> Metrics:
        """Gradients of the update's whole loss; its loss and metrics on the device."""
        failpoint.reach(step)
        total = self.objective.total(rows)
        sums: Metrics = {}
        self.model.train()
        model, budget = self.model, self.progress.micro_batch_tokens
        for batch in micro_batches(rows, budget, model.layout, model.device):
            loss, metrics = self.objective.loss(batch, total)
            loss.backward()  # type: ignore[no-untyped-call]
            add(sums, {"loss": loss, **metrics})
        return sums


def _forget_gradients(model: TrainableModel) -> None:
    """Outside the `except`, so that the failed pass's activations are not kept alive by its traceback."""
    for parameters in (model.trained, model.masters):
        for parameter in parameters.values():
            parameter.grad = None
    if model.device.type == "cuda":
        torch.cuda.empty_cache()


def _memory_message(recipe: ResolvedRecipe, rows: Rows, progress: Progress, step: int) -> str:
    return (
        f"Training ran out of memory at step {step}, even with micro-batches of "
        f"{progress.micro_batch_tokens} tokens (first {recipe.micro_batch_tokens}); the longest example there has "
        f"{int(rows.lengths.max())} tokens. Lower training.max_length, or choose a smaller base model or technique."
    )


def has_diverged(result: StepResult, progress: Progress, highest: float) -> bool:
    """Count this step among the bad ones in a row, or end their row. `highest`: the loss beyond which one is bad."""
    finite = math.isfinite(result.loss) and math.isfinite(result.grad_norm)
    if progress.first_loss is None and finite:
        progress.first_loss = result.loss
    progress.non_finite_steps = 0 if finite else progress.non_finite_steps + 1
    high = not finite or result.loss > highest
    progress.high_loss_steps = progress.high_loss_steps + 1 if high else 0
    return max(progress.non_finite_steps, progress.high_loss_steps) >= PATIENCE_STEPS
