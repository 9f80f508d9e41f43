"""Writing of metrics and messages to the database, in batches. During an outage they are kept and written later."""

import threading
import time

import msgspec
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from api.records import events, jobs, queue
from api.records.base import db_now
from api.records.database import is_outage
from api.spec.formats.base import truncate
from worker.shared.reports import MetricsReport, PhaseReport, RolloutSample, SamplesReport, WarningReport
from worker.supervisor.attempt import AttemptContext

FLUSH_S = 1.0
MAX_SAMPLE_LENGTH = 80
"""Characters of a sampled answer, and of the end of its prompt, in a message. The event's data holds more."""

EVENT_METRICS = {
    "train_reward": "reward",
    "valid_loss": "validation loss",
    "valid_reward": "validation reward",
    "full_valid_loss": "full validation loss",
}
"""Metrics that a step's message contains if the step has them, each with its name in the message."""


class Progress:
    """Two threads use it: one handles the trainer's reports, the other stores its states."""

    def __init__(self, attempt: AttemptContext) -> None:
        self._attempt = attempt
        self._last_step = attempt.job.progress.get("step", 0)
        self._progress = attempt.job.progress.copy()
        self._waiting: list[MetricsReport | SamplesReport | WarningReport] = []
        self._flushed_at = 0.0
        self._changed = False
        self._lock = threading.Lock()

    def add(self, report: MetricsReport | SamplesReport | WarningReport | PhaseReport) -> None:
        """Collect a report. Steps that an earlier attempt already reported are skipped."""
        if isinstance(report, MetricsReport | SamplesReport) and report.step <= self._last_step:
            return
        with self._lock:
            self._changed = True
            if isinstance(report, PhaseReport):
                self._progress["phase"] = report.phase
                return
            if isinstance(report, MetricsReport):
                self._last_step = report.step
                self._progress |= {"step": report.step, "total_steps": report.total_steps}
            self._waiting.append(report)

    def flush(self, *, force: bool = False) -> None:
        """Write the collected reports, about once a second. An outage only delays them, unless `force` is set.

        Raises StaleFence.
        """
        with self._lock:
            now = time.monotonic()
            if self._changed and (force or now - self._flushed_at >= FLUSH_S):
                self._write(now, force=force)

    def _write(self, now: float, *, force: bool) -> None:
        claim = self._attempt.claim
        try:
            with self._attempt.node.context.database.write() as session:
                estimate = self._estimated_finish()
                jobs.update_fenced(session, claim.job_id, claim.fence, progress=self._progress, **estimate)
                if tokens := sum(report.tokens for report in self._waiting if isinstance(report, MetricsReport)):
                    queue.add_tokens(session, claim, tokens)
                for report in self._waiting:
                    _add_event(session, claim.job_id, report)
        except SQLAlchemyError as error:
            if force or not is_outage(error):
                raise
            return
        self._waiting.clear()
        self._flushed_at, self._changed = now, False

    def _estimated_finish(self) -> dict[str, object]:
        """Extrapolate from the speed of the newest step; return {} if no step waits."""
        last = next((report for report in reversed(self._waiting) if isinstance(report, MetricsReport)), None)
        if last is None or not last.tokens_per_second:
            return {}
        seconds_per_step = last.tokens / last.tokens_per_second
        return {"estimated_finish": db_now() + (last.total_steps - last.step) * seconds_per_step}


def _add_event(session: Session, job_id: str, report: MetricsReport | SamplesReport | WarningReport) -> None:
    if isinstance(report, WarningReport):
        events.add_event(session, job_id, report.message, level="warn")
    elif isinstance(report, MetricsReport):
        events.add_event(session, job_id, _step_message(report), type="metrics", data=report.metrics)
    elif report.samples:
        data = {"step": report.step, "samples": msgspec.to_builtins(report.samples)}
        events.add_event(session, job_id, _sample_message(report.step, report.samples[0]), data=data)


def _step_message(report: MetricsReport) -> str:
    message = f"Step {report.step}/{report.total_steps}: training loss={_number(report.train_loss)}"
    for name, words in EVENT_METRICS.items():
        if name in report.metrics:
            message += f", {words}={_number(report.metrics[name])}"
    return message


def _sample_message(step: int, sample: RolloutSample) -> str:
    prompt, answer = (" ".join(text.split()) for text in (sample.prompt, sample.answer))
    tail = prompt if len(prompt) <= MAX_SAMPLE_LENGTH else f"…{prompt[-MAX_SAMPLE_LENGTH:]}"
    return (
        f"Step {step} sample (reward {_number(sample.reward)}): {truncate(tail, MAX_SAMPLE_LENGTH + 1)} → "
        f"{truncate(answer, MAX_SAMPLE_LENGTH)}"
    )


def _number(value: float | None) -> str:
    """Format a metric. The pipe carries NaN and infinity as null."""
    return "not a number" if value is None else f"{value:.2f}"
