"""Comparison of the base model with the tuned one, on the same rows, once the training has ended.

The comparison is bounded in rows, tokens and seconds, and does not change the trained model. A failed comparison never
fails the job: a warning gives the reason.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from api.spec.evaluation import ComparisonLimits, Evaluation, SampleAnswer
from api.spec.lifecycle import FailureReason
from api.spec.resolve import ResolvedRecipe
from worker.engine.base_measurement import (
    Measurement,
    load_measurement,
    may_be_kept,
    measurement_name,
    save_measurement,
)
from worker.engine.data import Data, draw_rows
from worker.engine.errors import TrainingError, print_traceback
from worker.engine.interruptible import interruptible
from worker.engine.memory.heap import trim_heap
from worker.engine.memory.out_of_memory import retry_with_smaller_batch
from worker.engine.model.trainable import TrainableModel
from worker.engine.objective import EvaluationMetrics, Objective
from worker.shared.arrays import Rows
from worker.shared.judgements import Interrupted
from worker.shared.pipe import Pipe
from worker.shared.reports import PhaseReport

T = TypeVar("T")

COMPARISON_TIMEOUT_S = 60.0
"""Time limit, in seconds, of each part of the comparison: the metrics of a model, and its sample answers."""
ROWS_SEED = 0
"""Seed by which the rows are drawn. It is not the job's, so that jobs with the same files are compared on the same
rows, and can use each other's measurement of the base model."""


class Comparison:
    """Compares the base model with the tuned one. Call `measure` with the tuned weights in the model.

    Here, the base model is the model at step 0, which includes the technique's initial weights and, if the method needs
    a new head, a random head.
    """

    def __init__(
        self,
        recipe: ResolvedRecipe,
        data: Data,
        objective: Objective,
        pipe: Pipe,
        load: Callable[[], TrainableModel],
    ) -> None:
        """`load` returns the model at step 0. It is called only if the objective's model has no copy of the weights of
        step 0."""
        self._recipe, self._objective, self._pipe, self._load = recipe, objective, pipe, load
        self._validates = len(data.validation) > 0
        self._limits = ComparisonLimits.of(
            trained_rows=recipe.total_steps * min(recipe.batch_size, len(data.train)),
            mean_tokens=float(data.train.lengths.mean()),
            validates=self._validates,
            rollouts=recipe.method.rollouts,
        )
        self.interrupted = False
        """Whether a stop has interrupted a part of the comparison."""
        self._rows = _draw(data.validation if self._validates else data.train, self._limits)

    def measure(self) -> Evaluation | None:
        """Return the comparison; None if either model could not be measured."""
        self._pipe.report(PhaseReport(phase="comparing"))
        base = self._base_measurement()
        tuned = None if base is None else self._measure("tuned")
        if base is None or tuned is None:
            return None
        pairs = zip(base.answers, tuned.answers, strict=True) if base.answers and tuned.answers else ()
        return Evaluation(
            rows=len(self._rows),
            drawn_from="validation" if self._validates else "training",
            base_model=self._recipe.continues or self._recipe.model,
            base=base.metrics,
            tuned=tuned.metrics,
            samples=[
                SampleAnswer(
                    prompt=before.prompt,
                    reference=before.reference,
                    base=before.answer,
                    tuned=after.answer,
                    base_reward=before.reward,
                    tuned_reward=after.reward,
                )
                for before, after in pairs
            ],
        )

    def _base_measurement(self) -> Measurement | None:
        """Return the measurement of an earlier job if there is one; otherwise measure the base model. None if that
        fails."""
        if not may_be_kept(self._recipe):
            return self._measure_base()
        device, run = self._objective.model.device, self._objective.context.run
        name = measurement_name(self._recipe, self._rows, self._limits.answer_tokens, device)
        base = load_measurement(run, name, self._rows)
        if base is None:
            base = self._measure_base()
        elif base.references is not None:
            self._rows = replace(self._rows, per_row={"reference": np.array(base.references, np.float32)})
        if base is not None and base.answers is not None:
            with suppress(OSError):  # a full disk
                save_measurement(run, name, base)
        return base

    def _measure_base(self) -> Measurement | None:
        base_weights = self._try("The evaluation of the base model", self._base_weights)
        if base_weights is None:
            return None
        with base_weights:
            # Rows that no training step reached have no log-probabilities of the reference yet.
            rows = self._try("The evaluation of the base model", partial(self._objective.with_reference, self._rows))
            if rows is None:
                return None
            self._rows = rows
            base = self._measure("base")
        references = rows.per_row["reference"].tolist() if self._objective.has_reference else None
        return None if base is None else replace(base, references=references)

    def _base_weights(self) -> AbstractContextManager[None]:
        """Return a context in which the model has the weights of step 0."""
        model = self._objective.model
        if model.has_snapshot:
            return model.reference_weights()
        with torch.random.fork_rng():
            start = {name: parameter.detach() for name, parameter in self._load().trained.items()}
        trim_heap()
        return model.reference_weights(start)

    def _measure(self, which: str) -> Measurement | None:
        evaluate = partial(self._objective.comparison_metrics, self._rows)
        metrics = self._try(f"The evaluation of the {which} model", evaluate)
        if metrics is None:
            return None
        answer = partial(self._objective.sample_answers, self._rows, self._limits.answer_tokens)
        return Measurement(_scalars(metrics), self._try(f"Sample answers of the {which} model", answer))

    def _try(self, what: str, act: Callable[[], T]) -> T | None:
        """Return the result of `act`. Send a warning and return None if it fails or takes too long."""
        extra_metrics = dict(self._objective.extra_metrics)
        try:
            with interruptible(self._objective.model, self._pipe, COMPARISON_TIMEOUT_S):
                return retry_with_smaller_batch(
                    act, self._objective, self._rows, f"in {what[0].lower()}{what[1:]}", self._pipe.warn
                )
        except Interrupted:
            self.interrupted |= self._pipe.stopping
            why = f"it took longer than {COMPARISON_TIMEOUT_S:.0f} s"
        except Exception as error:
            print_traceback(error)
            why = "of an internal error, whose details are in the job's log"
            if isinstance(error, TrainingError) and error.reason is FailureReason.OUT_OF_MEMORY:
                why = "memory ran out"
        finally:
            self._objective.extra_metrics = extra_metrics
        if not self._pipe.stopping:
            self._pipe.warn(f"{what} could not be made, because {why}.")
        return None


def _draw(rows: Rows, limits: ComparisonLimits) -> Rows:
    """Draw as many rows as the limits on rows and tokens allow, but at least one."""
    drawn = draw_rows(rows, limits.rows, ROWS_SEED)
    while len(drawn) > 1 and (tokens := int(drawn.lengths.sum())) > limits.tokens:
        drawn = draw_rows(rows, max(1, min(len(drawn) - 1, len(drawn) * limits.tokens // tokens)), ROWS_SEED)
    return drawn


def _scalars(metrics: EvaluationMetrics) -> dict[str, float | None]:
    """Return the metrics that are single numbers. NaN and infinity, which JSON does not have, become None."""
    scalars = {name: float(value) for name, value in metrics.by_name().items() if isinstance(value, (int, float))}
    return {name: value if math.isfinite(value) else None for name, value in scalars.items()}
