"""One optimizer step: forward and backward over micro-batches, clip, update."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from api.spec.resolve import ResolvedRecipe
from worker.engine import failpoint
from worker.engine.memory.out_of_memory import retry_with_smaller_batch
from worker.engine.model.trainable import TrainableModel
from worker.engine.objective import Metrics, Objective, accumulate, as_floats
from worker.engine.optimizer import clipped_step, learning_rate
from worker.engine.row_order import rows_of_step
from worker.engine.saving.training_state import Progress
from worker.shared.arrays import Rows

T = TypeVar("T")

DIVERGENCE_STEPS = 3
"""Number of consecutive steps with a non-finite or far too high loss after which the training counts as diverged."""


@dataclass(frozen=True)
class StepResult:
    loss: float
    metrics: dict[str, float]
    grad_norm: float
    """Norm of the gradients before clipping: the mean over the step's updates."""
    learning_rate: float
    tokens: int


@dataclass
class Loop:
    """The parts of a training. `step` makes one optimizer step with them."""

    recipe: ResolvedRecipe
    model: TrainableModel
    objective: Objective
    optimizer: torch.optim.AdamW
    train: Rows
    progress: Progress
    warn: Callable[[str], None]

    def step(self) -> StepResult:
        """Make step `progress.step + 1`: one update for most methods, several for those that learn from rollouts."""
        step = self.progress.step + 1
        # The seed and the step's number determine the rows, so a resumed training needs no other data cursor.
        rows = self.train.take(rows_of_step(len(self.train), self.recipe.batch_size, step, self.recipe.seed))
        rate = learning_rate(self.recipe, step)
        sums: Metrics = {}
        tokens = updates = 0
        for update in self._updates(rows, step):
            metrics = self._retry(partial(self._backward, update, step), update, step)
            metrics["grad_norm"] = clipped_step(self.optimizer, self.recipe.max_grad_norm, rate)
            # The optimizer updates float32 masters. The model may compute with bfloat16 copies, in which most updates
            # would be lost: they are smaller than the rounding step.
            self.model.copy_from_masters()
            accumulate(sums, metrics)
            tokens += int(update.lengths.sum())
            updates += 1
        # The host waits for the device only here. Until then, it queues work without waiting for results.
        means = {name: value / updates for name, value in as_floats(sums).items()}
        loss, grad_norm = means.pop("loss"), means.pop("grad_norm")
        self.progress.step = step
        self.progress.trained_tokens += tokens
        return StepResult(loss, {**means, **self.objective.extra_metrics}, grad_norm, rate, tokens)

    def _updates(self, rows: Rows, step: int) -> Iterator[Rows]:
        """Yield the objective's updates. If memory runs out while rollouts are sampled, the sampling starts over with a
        smaller budget."""

        def start() -> tuple[Iterator[Rows], Rows]:
            updates = self.objective.updates(rows, step)
            return updates, next(updates)

        updates, first = self._retry(start, rows, step)
        yield first
        yield from updates

    def _retry(self, act: Callable[[], T], rows: Rows, step: int) -> T:
        result = retry_with_smaller_batch(act, self.objective, rows, f"at step {step}", self.warn)
        self.progress.micro_batch_tokens = self.objective.budget_tokens
        return result

    def _backward(self, rows: Rows, step: int) -> Metrics:
        """Accumulate the gradients of the update's loss. Return the loss and the metrics as tensors on the device."""
        failpoint.reach(step)
        # Each micro-batch's loss is divided by the divisor of the whole update. The gradients then add up to that of
        # the mean over the update, however the rows are grouped. Division by each micro-batch's own count would give
        # other gradients.
        normalizer = self.objective.normalizer(rows)
        sums: Metrics = {}
        self.model.train()
        for batch in self.objective.batches(rows):
            loss, metrics = self.objective.loss(batch, normalizer)
            loss.backward()  # type: ignore[no-untyped-call]
            accumulate(sums, {"loss": loss, **metrics})
        return sums


def count_failed_steps(result: StepResult, progress: Progress, threshold: float) -> None:
    """Count the step in `progress`.

    A step fails if its loss or gradient norm is not finite, or its loss is above the threshold. One failed step does
    not end the training: AdamW skips a non-finite update, and a loss can spike on one batch.
    """
    finite = math.isfinite(result.loss) and math.isfinite(result.grad_norm)
    if progress.first_loss is None and finite:
        progress.first_loss = result.loss
    progress.non_finite_steps = 0 if finite else progress.non_finite_steps + 1
    high = not finite or result.loss > threshold
    progress.high_loss_steps = progress.high_loss_steps + 1 if high else 0


def has_diverged(progress: Progress) -> bool:
    """Return whether the last DIVERGENCE_STEPS steps all failed."""
    return max(progress.non_finite_steps, progress.high_loss_steps) >= DIVERGENCE_STEPS
