"""Batched writes of a trainer's metrics and messages to the database. During an outage they are kept and written
later."""

import threading
import time

import msgspec
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from api.estimate.stored import StoredPrediction
from api.records import charted_steps, events, job_queue, jobs
from api.records.base import db_now
from api.records.database import is_outage
from api.spec.formats.base import truncate
from api.spec.job import JobProgress
from worker.shared.reports import MetricsReport, PhaseReport, RolloutSample, SamplesReport, WarningReport
from worker.supervisor.attempt import AttemptContext
from worker.supervisor.remaining import Remaining, share_done

FLUSH_S = 1.0
MAX_SAMPLE_LENGTH = 80
"""Maximum number of characters of a sampled answer, and of the end of its prompt, in an event's message. The event's
data holds longer texts."""

PHASE_EVENTS = {
    "loading": "Loading the base model",
    "comparing": "Comparing with the base model",
    "exporting": "Exporting the model",
    "verifying": "Checking the published files",
    "storing": "Storing the model",
}
"""Messages of the events that announce phases in which no step ends."""
EVENT_METRICS = {
    "train_reward": "reward",
    "valid_loss": "validation loss",
    "valid_reward": "validation reward",
    "full_valid_loss": "full validation loss",
}
"""Metrics that a step's message shows, if the step has them, and their names in the message."""


class Progress:
    """Collects a trainer's reports and writes them to the database. Two threads use it: one handles the trainer's
    reports, the other stores its states."""

    def __init__(
        self, attempt: AttemptContext, predicted: StoredPrediction | None = None, *, resumed_at: int = 0
    ) -> None:
        """`resumed_at`: the step of the state from which the attempt resumes. Earlier attempts may have reported later
        steps, which are trained again."""
        self._attempt = attempt
        job = attempt.job
        self._last_step = job.progress.get("step", 0)
        total_steps = (job.resolved or {}).get("total_steps", 0)
        self._progress: JobProgress = {"step": 0, "total_steps": total_steps, **job.progress}
        self._remaining = Remaining(predicted, share_done(job, resumed_at))
        self._begun: set[str] = set()
        """Phases that were already announced by an event."""
        self._waiting: list[MetricsReport | SamplesReport | WarningReport | PhaseReport] = []
        self._flushed_at: float | None = None
        """When the last write was. None if the next write is due at once: before the first, and for the first step."""
        self._stepped = False
        self._changed = False
        self._lock = threading.Lock()

    def add(self, report: MetricsReport | SamplesReport | WarningReport | PhaseReport) -> None:
        """Collect a report. Of steps that an earlier attempt already reported, only the time counts."""
        with self._lock:
            self._changed = True
            if isinstance(report, MetricsReport):
                self._remaining.end_step(report)
            if isinstance(report, MetricsReport | SamplesReport) and report.step <= self._last_step:
                return
            if isinstance(report, PhaseReport):
                self._progress["phase"] = report.phase
                self._remaining.begin(report.phase)
                if report.phase in self._begun or report.phase not in PHASE_EVENTS:
                    return
                self._begun.add(report.phase)
            if isinstance(report, MetricsReport):
                self._last_step = report.step
                if not self._stepped:
                    self._stepped, self._flushed_at = True, None
                self._progress |= {"step": report.step, "total_steps": report.total_steps}
                self._progress["learning_rate"] = report.metrics.get("learning_rate")
            self._waiting.append(report)

    def flush(self, *, force: bool = False) -> None:
        """Write the collected reports, if the last write was FLUSH_S ago, the attempt's first step was reported, or
        `force` is set. During an outage of the database, the reports are kept for a later call; with `force`, the error
        is raised.

        Raises StaleFence if the attempt no longer owns the job.
        """
        with self._lock:
            now = time.monotonic()
            due = self._flushed_at is None or now - self._flushed_at >= FLUSH_S
            if self._changed and (force or due):
                self._write(now, force=force)

    def _write(self, now: float, *, force: bool) -> None:
        claim = self._attempt.claim
        try:
            with self._attempt.node.context.database.write() as session:
                left_s = self._remaining.seconds
                finish = {} if left_s is None else {"estimated_finish": db_now() + left_s}
                jobs.update_fenced(session, claim.job_id, claim.fence, progress=self._progress, **finish)
                if tokens := sum(report.tokens for report in self._waiting if isinstance(report, MetricsReport)):
                    job_queue.add_tokens(session, claim, tokens)
                for report in self._waiting:
                    _add_event(session, claim.job_id, report)
        except SQLAlchemyError as error:
            if force or not is_outage(error):
                raise
            return
        self._waiting.clear()
        self._flushed_at, self._changed = now, False


def _add_event(
    session: Session, job_id: str, report: MetricsReport | SamplesReport | WarningReport | PhaseReport
) -> None:
    if isinstance(report, WarningReport):
        events.add_event(session, job_id, report.message, level="warn")
    elif isinstance(report, PhaseReport):
        events.add_event(session, job_id, PHASE_EVENTS[report.phase])
    elif isinstance(report, MetricsReport):
        charted_steps.add(session, job_id, _step_message(report), report.metrics)
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
    """Format a metric. None means NaN or infinity, which the trainer's pipe carries as null."""
    return "not a number" if value is None else f"{value:.2f}"
