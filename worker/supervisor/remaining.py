"""The time that a training still needs: its steps, and the phases after the last one."""

import time
from collections.abc import Callable

from api.estimate.stored import StoredPrediction
from api.records.jobs import Job
from worker.shared.reports import MetricsReport

COMPARING_SHARE = 0.04
"""Share of the training time that the comparison with the base model takes (measured in a training of a hundred steps,
docs/engine-log.md). It is more in shorter trainings, where it is a matter of seconds."""
REST_S = 15.0
"""Assumed seconds before and after training, for jobs without a prediction."""
LEFT_OF_REST = {"loading": 1.0, "exporting": 0.6, "verifying": 0.35, "storing": 0.1}
"""Share of the time before and after training that is still left when a phase begins."""


def predicted_s(predicted: StoredPrediction, done: float) -> float:
    """Return the predicted seconds of an attempt that trains the remaining steps. `done`: the share of steps that are
    already trained."""
    return predicted["seconds"] - done * predicted["training_s"]


def share_done(job: Job, step: int) -> float:
    """Return the share of the job's steps that an attempt which resumes from the state of `step` need not train."""
    total = (job.resolved or {}).get("total_steps", 0)
    return step / total if total else 0.0


class Remaining:
    """The time until the job's end: first as predicted, then extrapolated from the attempt's own steps."""

    def __init__(
        self, predicted: StoredPrediction | None, done: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`done`: the share of the steps that are already trained, when the trainer starts."""
        self._clock = clock
        self._training_s = predicted["training_s"] if predicted else 0.0
        """Seconds of all steps and the comparison: as predicted, then as extrapolated. A prediction without measured
        speed may be several times the actual time."""
        self._rest_s = predicted["seconds"] - predicted["training_s"] if predicted else REST_S
        self._first: tuple[int, float] | None = None
        """Number of this attempt's first step, and the time when it ended."""
        self._end: float | None = None
        if predicted:
            self._left_now(predicted_s(predicted, done))

    @property
    def seconds(self) -> float | None:
        """Return the seconds until the job's end; None if nothing is known yet."""
        return None if self._end is None else max(0.0, self._end - self._clock())

    def begin(self, phase: str) -> None:
        if phase == "comparing":
            self._left_now(self._after_steps_s)
        elif phase in LEFT_OF_REST and phase != "loading":
            self._left_now(LEFT_OF_REST[phase] * self._rest_s)

    def end_step(self, report: MetricsReport) -> None:
        """Extrapolate from the mean time of this attempt's steps, which includes evaluations and saving between
        steps."""
        now = self._clock()
        if self._first is None:
            self._first = (report.step, now)
        step, ended_at = self._first
        if report.step > step:
            step_s = (now - ended_at) / (report.step - step)
        elif report.tokens_per_second:
            step_s = report.tokens / report.tokens_per_second
        else:
            return
        self._training_s = report.total_steps * step_s / (1 - COMPARING_SHARE)
        self._left_now((report.total_steps - report.step) * step_s + self._after_steps_s)

    @property
    def _after_steps_s(self) -> float:
        return COMPARING_SHARE * self._training_s + LEFT_OF_REST["exporting"] * self._rest_s

    def _left_now(self, seconds: float) -> None:
        self._end = self._clock() + seconds
