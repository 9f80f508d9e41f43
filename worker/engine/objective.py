"""The interface between the training loop (`worker.engine.loop`) and the methods (`worker.methods`)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from api.estimate.activations import ExecutionPlan
from api.estimate.sampling import SamplingPlan, sampling_plan
from api.spec.methods.base import Options
from api.spec.resolve import ResolvedRecipe
from worker.engine.generation.sample_answers import GeneratedAnswer, greedy_answers
from worker.engine.model.batches import MicroBatch, micro_batches
from worker.engine.model.facts import facts_of_base
from worker.engine.model.trainable import TrainableModel
from worker.shared.arrays import Rows
from worker.shared.judgements import AskJudges, no_judge
from worker.shared.reports import Report

MERGED_FROM_TOKENS = 12
"""Length from which answers are sampled with merged adapters. For shorter ones, merging takes longer than it saves,
unless each pass computes whole matrices from the adapter (docs/engine-log.md)."""

Floats = npt.NDArray[np.float32]
RowIndices = npt.NDArray[np.int64]
Metrics = dict[str, torch.Tensor]
"""A micro-batch's parts of the metrics of its update, as scalars on the device. The metrics of an update are the sums
over its micro-batches."""
Metric: TypeAlias = float | list[float] | list[list[int]]
"""A single number, a list with one number for each class, or the counts of a confusion matrix."""

REFERENCE_ROWS = 512
"""Number of rows for which the reference's log-probabilities are computed at a time. An interruption loses the work on
one group at most."""


@dataclass(frozen=True)
class EvaluationMetrics:
    """The metrics of a model on some rows."""

    loss: float
    """Lower is better."""
    others: Mapping[str, Metric]

    def by_name(self) -> dict[str, Metric]:
        return {"loss": self.loss, **self.others}


@dataclass(frozen=True)
class MethodContext:
    """The parts of a training that its method needs."""

    recipe: ResolvedRecipe
    run: Path
    """The run folder."""
    model: TrainableModel
    report: Callable[[Report], None]
    """Sends a report to the supervisor (`worker.shared.pipe.Pipe.report`)."""
    ask: AskJudges = no_judge
    """Asks chat models to grade answers (`worker.shared.judgements.Judgements`)."""


class Objective:
    """A training method. A subclass defines at least `normalizer` and `loss`.

    The loop calls `prepare` once before the first step. In each step it takes the rows of every update from `updates`,
    and adds up `loss` over their micro-batches.
    """

    options: Options
    """The options in the recipe's `method.<type>`. A subclass declares their exact type."""

    def __init__(self, context: MethodContext) -> None:
        self.context, self.recipe, self.model = context, context.recipe, context.model
        self.options = context.recipe.method.options
        assert self.recipe.micro_batch_tokens != "auto", "the micro-batch is resolved before the first step"
        self.budget_tokens: int = self.recipe.micro_batch_tokens
        """Maximum number of tokens in a micro-batch. It is halved when memory runs out."""
        self.extra_metrics: dict[str, float] = {}
        """Metrics of the last step that are not sums over micro-batches, such as the mean reward."""
        self.state: dict[str, float] = {}
        """Values that the method carries from step to step, such as an adaptive coefficient. They are stored in saved
        states."""

    @property
    def has_reference(self) -> bool:
        """Whether the loss compares the policy with log-probabilities of the reference, the model at step 0. They are
        computed once for each row."""
        return self.recipe.method.reference_passes > 0

    def prepare(self, rows: Rows, known: Floats | None = None) -> Rows:
        """Return the rows in the form that the method trains on. If the method has a reference, its log-probabilities
        are those in `known`, which an earlier attempt computed, and NaN otherwise (`compute_reference`)."""
        rows = self.transform_rows(rows)
        if not self.has_reference:
            return rows
        if known is None or known.shape != (len(rows), rows.width):
            known = np.full((len(rows), rows.width), np.nan, np.float32)
        return replace(rows, per_row={"reference": known.copy()})

    def transform_rows(self, rows: Rows) -> Rows:
        """Return the rows in the form that the method trains on."""
        return rows

    def reference(self, rows: Rows) -> Floats:
        """Return the current model's log-probabilities of the sequences, [rows, width], in the form that the loss
        needs. Called only for methods with `has_reference`."""
        raise NotImplementedError

    def compute_reference(self, rows: Rows, needed: RowIndices, after_group: Callable[[], None]) -> None:
        """Put the missing (NaN) log-probabilities of the reference into the prepared rows. The model must have the
        weights of step 0.

        `needed`: indices of the rows that the training reaches. If an exception ends the computation, the rows keep
        what was computed until then. The rest can be computed later with the same result, because the rows are always
        divided into the same groups. `after_group` is called after each group.
        """
        known = rows.per_row["reference"]
        for start in range(0, len(needed), REFERENCE_ROWS):
            group = needed[start : start + REFERENCE_ROWS]
            if np.isnan(known[group]).any():
                known[group] = self.reference(rows.take(group))
                after_group()

    def with_reference(self, rows: Rows) -> Rows:
        """Return prepared rows with the missing (NaN) log-probabilities of the reference computed. The model must have
        the weights of step 0."""
        if not self.has_reference:
            return rows
        known = rows.per_row["reference"].copy()
        missing = np.flatnonzero(np.isnan(known).any(1))
        if len(missing):
            known[missing] = self.reference(rows.take(missing))
        return replace(rows, per_row={**rows.per_row, "reference": known})

    def updates(self, rows: Rows, step: int) -> Iterator[Rows]:
        """Yield the rows of each optimizer update in this step: by default one update, on the step's rows."""
        yield rows

    def normalizer(self, rows: Rows) -> float:
        """Return the divisor of the loss for the rows of one update: the number of rows, or of their tokens."""
        raise NotImplementedError

    def loss(self, batch: MicroBatch, normalizer: float) -> tuple[torch.Tensor, Metrics]:
        """Return what this micro-batch adds to the update's loss and metrics: sums over its rows or tokens, divided by
        `normalizer`. `normalizer`: the value of `self.normalizer` for all rows of the update."""
        raise NotImplementedError

    @torch.no_grad()
    def evaluate(self, rows: Rows) -> EvaluationMetrics:
        """Return the loss and the metrics over all rows, weighted as in training. The evaluation consumes no random
        numbers of the training, so evaluating more or less often changes no weights."""
        sums: Metrics = {}
        normalizer = self.normalizer(rows)
        self.model.train(False)
        for batch in self.batches(rows):
            loss, metrics = self.loss(batch, normalizer)
            accumulate(sums, {"loss": loss, **metrics})
        means = as_floats(sums)
        return EvaluationMetrics(means.pop("loss"), means)

    def comparison_metrics(self, rows: Rows) -> EvaluationMetrics:
        """Return the metrics by which the base model and the tuned model are compared."""
        return self.evaluate(rows)

    def sample_answers(self, rows: Rows, max_tokens: int) -> list[GeneratedAnswer]:
        """Return the current model's answers, of at most `max_tokens`, to a few of the rows. Return an empty list if
        the model does not generate text."""
        if self.recipe.method.output != "tokens":
            return []
        plan = self.sampling_plan()
        if max_tokens < MERGED_FROM_TOKENS and self.recipe.technique.flops_per_pass == 0:
            plan = replace(plan, merges=False)
        virtual_tokens = self.recipe.technique.virtual_tokens
        return greedy_answers(
            self.context.run / "base", self.model, rows, max_tokens, plan, virtual_tokens=virtual_tokens
        )

    def sampling_plan(self) -> SamplingPlan:
        """Return the limits on memory while answers are sampled. They are lower after memory has run out."""
        execution = ExecutionPlan(
            gpu=self.model.device.type == "cuda",
            value_bytes=2 if self.recipe.precision == "bfloat16" else 4,
            budget=self.budget_tokens,
            recompute=self.recipe.gradient_checkpointing is True,
        )
        return sampling_plan(self.recipe, facts_of_base(self.context.run / "base"), execution)

    def divergence_threshold(self, first_loss: float | None) -> float:
        """Return the loss above which a step counts as diverged: infinity, unless the method's loss has a known scale.

        `first_loss`: the loss of the first step; None before it.
        """
        return float("inf")

    def batches(self, rows: Rows) -> Iterator[MicroBatch]:
        return micro_batches(rows, self.budget_tokens, self.model.layout, self.model.device)

    @torch.no_grad()
    def sequence_logprobs(self, rows: Rows, *, mean: bool = False) -> Floats:
        """Return the current model's log-probability of each sequence, [rows, width]: the sum over its supervised
        tokens, or their mean."""
        logprobs_R_W = np.zeros((len(rows), rows.width), np.float32)
        self.model.train(False)
        places: list[RowIndices] = []  # micro-batches take the rows in order of length
        found: list[torch.Tensor] = []
        for batch in self.batches(replace(rows, per_row={})):
            sums = reduce_by_sequence(self.model.token_scores(batch).smoothed_logprobs, batch, mean=mean)
            places.append(batch.rows)
            found.append(sums.view(-1, rows.width).float())
        if found:  # the host waits for the device only now
            logprobs_R_W[np.concatenate(places)] = torch.cat(found).cpu().numpy()
        return logprobs_R_W


def reduce_by_sequence(values_S: torch.Tensor, batch: MicroBatch, *, mean: bool) -> torch.Tensor:
    """Return the sum, or the mean, of the values over each sequence's supervised tokens, [sequences]."""
    sums = batch.sums(values_S)
    return sums / batch.counts() if mean else sums


def accumulate(sums: Metrics, shares: Metrics) -> None:
    """Add a micro-batch's parts of the metrics to the sums, in place and without their autograd graphs."""
    for name, value in shares.items():
        sums[name] = sums[name] + value.detach() if name in sums else value.detach()


def as_floats(sums: Metrics) -> dict[str, float]:
    """Return the values on the host. All of them are copied at once, since each copy waits for the device."""
    if not sums:
        return {}
    values = torch.stack([value.float() for value in sums.values()]).tolist()
    return dict(zip(sums, values, strict=True))
