"""What every method does in a training: what the loop (worker.engine.loop) asks of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from api.spec.resolve import ResolvedRecipe
from worker.engine.generation.sample_answers import GeneratedAnswer, greedy_answers
from worker.engine.model.batches import MicroBatch, micro_batches, total_weight
from worker.engine.model.trainable import TrainableModel
from worker.shared.arrays import Rows
from worker.shared.reports import Report

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]
"""Numbers of rows."""
Metrics = dict[str, torch.Tensor]
"""Shares of means: those of all micro-batches of a step add up to the step's."""


@dataclass(frozen=True)
class MethodContext:
    """The training that a method is part of."""

    recipe: ResolvedRecipe
    run: Path
    model: TrainableModel
    say: Callable[[Report], None]
    """`worker.shared.pipe.Pipe.report`"""


class Objective:
    """A method at work. A subclass has at least `total` and `loss`."""

    def __init__(self, setting: MethodContext) -> None:
        self.setting, self.recipe, self.model = setting, setting.recipe, setting.model
        budget = self.recipe.micro_batch_tokens
        assert budget != "auto", "the micro-batch is resolved before the first step"
        self.budget_tokens = budget
        """Of a micro-batch. Halved by the loop when memory runs out."""
        self.observed: dict[str, float] = {}
        """What was seen beside the loss in the last step, such as rewards."""
        self.state: dict[str, float] = {}
        """What the method itself remembers from step to step."""

    samples_answers = False
    """It learns from answers of its own, so that an evaluation samples some."""

    @property
    def options(self) -> Any:
        return self.recipe.method.options

    has_reference = False
    """It compares the model with itself at step 0."""

    def prepare(self, rows: Rows, needed: Places | None = None, known: Floats | None = None) -> Rows:
        """Return the rows with what the method must know of them before the weights of step 0 change.

        `needed`: the rows that will be seen; all of them if None. `known`: references from an earlier attempt.
        """
        rows = self.lay_out(rows)
        if not self.has_reference:
            return rows
        if known is None or known.shape != (len(rows), rows.width):
            known = np.full((len(rows), rows.width), np.nan, np.float32)
            needed = np.arange(len(rows)) if needed is None else needed
            known[needed] = self.reference(rows.take(needed))
        return replace(rows, per_row={"reference": known})

    def lay_out(self, rows: Rows) -> Rows:
        """Return the rows as the method reads them."""
        return rows

    def reference(self, rows: Rows) -> Floats:
        """Return the log-probabilities [rows, width] of a method that `has_reference`, by the model as it is now."""
        raise NotImplementedError

    def with_reference(self, rows: Rows) -> Rows:
        """Return prepared rows that all have a reference. To be called with the weights of step 0."""
        if not self.has_reference:
            return rows
        known = rows.per_row["reference"].copy()
        missing = np.flatnonzero(np.isnan(known).any(1))
        if len(missing):
            known[missing] = self.reference(rows.take(missing))
        return replace(rows, per_row={**rows.per_row, "reference": known})

    def updates(self, rows: Rows, step: int) -> Iterator[Rows]:
        """What the optimizer's updates of one step are made from: the step's rows, if nothing else."""
        yield rows

    def total(self, rows: Rows) -> float:
        """By what the sums over the rows of one update are divided."""
        raise NotImplementedError

    def loss(self, batch: MicroBatch, total: float) -> tuple[torch.Tensor, Metrics]:
        """A micro-batch's share of the loss, and of the metrics."""
        raise NotImplementedError

    @torch.no_grad()
    def evaluate(self, rows: Rows) -> dict[str, float]:
        """`loss` (lower is better) and the metrics over all rows, weighted as in training. Draws no random number."""
        sums: Metrics = {}
        total = self.total(rows)
        self.model.train(False)
        for batch in self.batches(rows):
            loss, metrics = self.loss(batch, total)
            add(sums, {"loss": loss, **metrics})
        return as_numbers(sums)

    def compare(self, rows: Rows) -> dict[str, Any]:
        """What is told of the model before and after its training."""
        return self.evaluate(rows)

    def show_answers(self, rows: Rows) -> list[GeneratedAnswer]:
        """What the model now answers to a few of the rows, where answers are something to read."""
        if self.recipe.method.output != "tokens":
            return []
        return greedy_answers(self.setting.run / "base", self.model, rows, self.budget_tokens)

    def highest_loss(self, first: float | None) -> float:
        """Above this for several steps in a row, the training has diverged. Most losses know no such limit."""
        return float("inf")

    def batches(self, rows: Rows) -> Iterator[MicroBatch]:
        return micro_batches(rows, self.budget_tokens, self.model.layout, self.model.device)

    @torch.no_grad()
    def answer_logprobs(self, rows: Rows, *, mean: bool = False) -> Floats:
        """[rows, width]: log-probability of each sequence's supervised tokens by the model as it is now, their sum or
        mean."""
        found = np.zeros((len(rows), rows.width), np.float32)
        self.model.train(False)
        numbered = replace(rows, per_row={"at": np.arange(len(rows), dtype=np.float32)})
        for batch in self.batches(numbered):
            sums = answer_sums(self.model.token_scores(batch).smoothed_logprobs, batch, mean=mean)
            at = batch.per_row["at"].long().cpu().numpy()
            found[at] = sums.view(-1, rows.width).float().cpu().numpy()
        return found


def answer_sums(values_S: torch.Tensor, batch: MicroBatch, *, mean: bool) -> torch.Tensor:
    """[sequences]: the values of each sequence's supervised tokens, summed or averaged."""
    sums = batch.sums(values_S)
    return sums / batch.counts() if mean else sums


def supervised_mean(values_S: torch.Tensor, batch: MicroBatch, total: float) -> torch.Tensor:
    """Σ w v / W"""
    return (batch.weights * values_S).sum() / total


def add(sums: Metrics, more: Metrics) -> None:
    for name, value in more.items():
        sums[name] = sums[name] + value.detach() if name in sums else value.detach()


def as_numbers(sums: Metrics) -> dict[str, float]:
    """With one wait for the device."""
    if not sums:
        return {}
    values = torch.stack([value.float() for value in sums.values()]).tolist()
    return dict(zip(sums, values, strict=True))


__all__ = [
    "Floats",
    "MethodContext",
    "Metrics",
    "Objective",
    "add",
    "answer_sums",
    "as_numbers",
    "supervised_mean",
    "total_weight",
]
