"""Base against tuned: the same rows, before the first step and with the weights that are published.

It is bounded in rows, tokens and seconds, changes nothing of the training, and never fails it: where it cannot be made,
a warning says why.
"""

import math
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from api.spec.evaluation import (
    COMPARED_PROMPTS,
    COMPARED_ROWS,
    COMPARED_TOKENS,
    COMPARED_TRAINING_ROWS,
    Evaluation,
    SampleAnswer,
)
from api.spec.lifecycle import FailureReason
from api.spec.resolve import ResolvedRecipe
from worker.engine.data import Data, drawn
from worker.engine.errors import TrainingError
from worker.engine.generation.sample_answers import GeneratedAnswer
from worker.engine.model.trainable import TrainableModel
from worker.engine.objective import Objective
from worker.engine.out_of_memory import retry_with_smaller_batch
from worker.shared.arrays import Rows
from worker.shared.pipe import Pipe
from worker.shared.reports import PhaseReport

T = TypeVar("T")

COMPARED_S = 60.0
"""For the metrics of one model, and as much again for its sample answers."""


class CutShort(Exception):
    """Time is up, or the job was asked to stop."""


@dataclass(frozen=True)
class ComparisonResult:
    metrics: dict[str, float | None]
    shown: list[GeneratedAnswer]


class Comparison:
    """`before` is to be called with the weights of step 0, after an interruption too: so that a resumed training tells
    the same as one that was not interrupted."""

    def __init__(self, recipe: ResolvedRecipe, data: Data, objective: Objective, pipe: Pipe) -> None:
        self._recipe, self._objective, self._pipe = recipe, objective, pipe
        self._validates = len(data.validation) > 0
        self._rows = _few(data.validation if self._validates else data.train, self._most_rows(), recipe.seed)
        self._base: ComparisonResult | None = None

    def _most_rows(self) -> int:
        if self._objective.samples_answers:
            return COMPARED_PROMPTS
        return COMPARED_ROWS if self._validates else COMPARED_TRAINING_ROWS

    def before(self) -> None:
        """A method with a reference may not have computed it of all these rows: training may see only a few."""
        rows = self._try("The evaluation before training", partial(self._objective.with_reference, self._rows))
        if rows is not None:
            self._rows = rows
            self._base = self._look("before")

    def after(self) -> Evaluation | None:
        self._pipe.report(PhaseReport(phase="comparing"))
        tuned = None if self._base is None else self._look("after")
        if self._base is None or tuned is None:
            return None
        paired = zip(self._base.shown, tuned.shown, strict=True) if self._base.shown and tuned.shown else ()
        return Evaluation(
            rows=len(self._rows),
            drawn_from="validation" if self._validates else "training",
            base_model=self._recipe.continues or self._recipe.model,
            base=self._base.metrics,
            tuned=tuned.metrics,
            samples=[
                SampleAnswer(
                    prompt=base.prompt,
                    reference=base.reference,
                    base=base.answer,
                    tuned=tuned.answer,
                    base_reward=base.reward,
                    tuned_reward=tuned.reward,
                )
                for base, tuned in paired
            ],
        )

    def _look(self, when: str) -> ComparisonResult | None:
        metrics = self._try(f"The evaluation {when} training", partial(self._objective.compare, self._rows))
        if metrics is None:
            return None
        shown = self._try(f"Sample answers {when} training", partial(self._objective.show_answers, self._rows))
        return ComparisonResult(_numbers(metrics), shown or [])

    def _try(self, what: str, look: Callable[[], T]) -> T | None:
        """The training goes on whatever becomes of this: what is seen of it here is never worth a model."""
        observed = dict(self._objective.observed)
        try:
            with _limited(self._objective.model, self._pipe):
                return retry_with_smaller_batch(
                    look, self._objective, self._rows, f"for {what[0].lower()}{what[1:]}", self._pipe.warn
                )
        except CutShort:
            why = f"it took longer than {COMPARED_S:.0f} s"
        except Exception as error:
            traceback.print_exc()
            why = "of an internal error, which the worker's log tells of"
            if isinstance(error, TrainingError) and error.reason is FailureReason.OUT_OF_MEMORY:
                why = "memory ran out"
        finally:
            self._objective.observed = observed
        if not self._pipe.stopping:
            self._pipe.warn(f"{what} could not be made, because {why}.")
        return None


@contextmanager
def _limited(model: TrainableModel, pipe: Pipe) -> Iterator[None]:
    """Within it, each micro-batch and each sampled token first looks at the time."""
    tick, deadline = model.keep_alive, time.monotonic() + COMPARED_S

    def look_at_the_time() -> None:
        tick()
        if time.monotonic() > deadline or pipe.stopping:
            raise CutShort

    model.keep_alive = look_at_the_time
    try:
        yield
    finally:
        model.keep_alive = tick


def _few(rows: Rows, most: int, seed: int) -> Rows:
    """Return as many rows as the limits allow, and one at least, drawn from all of them."""
    found = drawn(rows, most, seed)
    while len(found) > 1 and (tokens := int(found.lengths.sum())) > COMPARED_TOKENS:
        found = drawn(rows, max(1, min(len(found) - 1, len(found) * COMPARED_TOKENS // tokens)), seed)
    return found


def _numbers(metrics: dict[str, Any]) -> dict[str, float | None]:
    """Those that are single numbers; not a number becomes null, as on the pipe."""
    single = {name: float(value) for name, value in metrics.items() if isinstance(value, (int, float))}
    return {name: value if math.isfinite(value) else None for name, value in single.items()}
