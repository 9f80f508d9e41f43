"""One optimizer step: micro-batches, gradients, what became of the loss."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from api.spec.resolve import ResolvedRecipe
from worker.engine import failpoint
from worker.engine.checkpoint import Progress
from worker.engine.model.batches import rows_of_step
from worker.engine.model.trainable import TrainableModel
from worker.engine.objective import Metrics, Objective, add, as_numbers
from worker.engine.optimizer import clipped_step, learning_rate
from worker.engine.out_of_memory import retry_with_smaller_batch
from worker.shared.arrays import Rows

T = TypeVar("T")

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
            self.model.copy_from_masters()
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
        done = retry_with_smaller_batch(act, self.objective, rows, f"at step {step}", self.warn)
        self.progress.micro_batch_tokens = self.objective.budget_tokens
        return done

    def _accumulate(self, rows: Rows, step: int) -> Metrics:
        """Gradients of the update's whole loss; its loss and metrics on the device."""
        failpoint.reach(step)
        total = self.objective.total(rows)
        sums: Metrics = {}
        self.model.train()
        for batch in self.objective.batches(rows):
            loss, metrics = self.objective.loss(batch, total)
            loss.backward()  # type: ignore[no-untyped-call]
            add(sums, {"loss": loss, **metrics})
        return sums


def has_diverged(result: StepResult, progress: Progress, highest: float) -> bool:
    """Count this step among the bad ones in a row, or end their row. `highest`: the loss beyond which one is bad."""
    finite = math.isfinite(result.loss) and math.isfinite(result.grad_norm)
    if progress.first_loss is None and finite:
        progress.first_loss = result.loss
    progress.non_finite_steps = 0 if finite else progress.non_finite_steps + 1
    high = not finite or result.loss > highest
    progress.high_loss_steps = progress.high_loss_steps + 1 if high else 0
    return max(progress.non_finite_steps, progress.high_loss_steps) >= PATIENCE_STEPS
