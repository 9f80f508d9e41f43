"""The time that a training still needs: its steps, and the phases after the last one."""

import time
from collections.abc import Callable

from api.estimate.stored import StoredPrediction
from api.records.jobs import Job
from worker.shared.reports import MetricsReport

COMPARING_SHARE = 0.1
"""The comparison with the base model, as a share of the predicted training, which includes it."""
REST_S = 15.0
"""Seconds before and after training where nothing is predicted."""
LEFT_OF_REST = {"loading": 1.0, "exporting": 0.6, "verifying": 0.35, "storing": 0.1}
"""Share of the time before and after training that is left when a phase begins."""


def predicted_s(predicted: StoredPrediction, done: float) -> float:
    """Return the seconds of an attempt that has the rest of the steps to make; `done` is the share of those made."""
    return predicted["seconds"] - done * predicted["training_s"]


def share_done(job: Job) -> float:
    """Return the share of the job's steps that earlier attempts have made."""
    total = (job.resolved or {}).get("total_steps", 0)
    return job.progress.get("step", 0) / total if total else 0.0


class Remaining:
    def __init__(
        self, predicted: StoredPrediction | None, done: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`done`: the share of the steps that earlier attempts have made."""
        self._clock = clock
        self._training_s = predicted["training_s"] if predicted else 0.0
        self._rest_s = predicted["seconds"] - predicted["training_s"] if predicted else REST_S
        self._first: tuple[int, float] | None = None
        """The first step of this attempt, and when it ended."""
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
        """Extrapolate from the mean time of this attempt's steps, with what happens between them."""
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
        self._left_now((report.total_steps - report.step) * step_s + self._after_steps_s)

    @property
    def _after_steps_s(self) -> float:
        return COMPARING_SHARE * self._training_s + LEFT_OF_REST["exporting"] * self._rest_s

    def _left_now(self, seconds: float) -> None:
        self._end = self._clock() + seconds
