"""The supervision of a trainer from its start to its last report."""

import contextlib
import signal
import statistics
import time
from collections.abc import Callable, Sequence

import structlog
from sqlalchemy.exc import SQLAlchemyError

from api.estimate.stored import StoredPrediction
from api.infra.storage import StorageUnavailable
from api.records import dependencies, job_queue, jobs
from api.records.database import is_outage
from api.records.dependencies import Dependency
from api.records.jobs import StaleFence
from api.spec.lifecycle import FailureReason, Stage
from worker.shared.reports import (
    CheckpointReport,
    DoneReport,
    ErrorReport,
    MetricsReport,
    PhaseReport,
    QuestionReport,
    Report,
    SamplesReport,
    StateReport,
    StoppedReport,
    WarningReport,
)
from worker.supervisor.attempt import AttemptContext
from worker.supervisor.child import Child
from worker.supervisor.estimates import Measured
from worker.supervisor.faults import SIGNALS_FROM_OUTSIDE, AttemptFailed, requeue
from worker.supervisor.judging import JudgeDesk
from worker.supervisor.outputs import publish
from worker.supervisor.progress import Progress
from worker.supervisor.uploads import Uploads

log = structlog.get_logger(__name__)

STOPPED = "The worker shut down: the job was requeued and resumes from its last saved state."

LISTEN_S = 0.5
RETRY_S = 2.0
FIRST_PHASE_AFTER_TRAINING = "exporting"
"""The first phase after the training time that an estimate predicts. The comparison with the base model is part of that
time."""
PUBLISH_PATIENCE_S = 900
"""Seconds for which an ended trainer's states, checkpoints and model wait for an unreachable database or storage."""


class TrainerMonitor:
    """Watches a trainer, handles its reports, and stores the states, checkpoints and the model that it writes."""

    def __init__(
        self,
        attempt: AttemptContext,
        trainer: Child,
        predicted: StoredPrediction | None = None,
        *,
        resumed_at: int = 0,
    ) -> None:
        """`resumed_at`: the step of the state from which the trainer resumes; 0 if it starts from the beginning."""
        self._attempt, self._trainer = attempt, trainer
        self._node, self._job, self._beat = attempt.node, attempt.job, attempt.beat
        self.exit_code: int | None = None
        """Exit code of the trainer, if it ended without a last report."""
        self.measured: Measured | None = None
        """Time and memory of the training. None unless it has succeeded."""
        self._progress = Progress(attempt, predicted, resumed_at=resumed_at)
        self._uploads = Uploads(attempt, lambda: self._progress.flush(force=True))
        self._judges = JudgeDesk(attempt, trainer)
        self._started_at = time.monotonic()
        self._phases: dict[str, float] = {}
        """When each phase first began."""
        self._step = resumed_at
        """The newest step of this attempt. An earlier attempt may have reported later steps."""
        self._stepped_at: float | None = None
        self._step_seconds: list[float] = []
        self._stop_sent = False
        self._shutdown_at: float | None = None
        """When the worker began to shut down. The pause command may have been sent long before."""

    def run(self) -> None:
        """Return when the training has succeeded or has stopped. Raise AttemptFailed if it failed, StaleFence if the
        attempt no longer owns the job."""
        with self._uploads, self._judges:
            while True:
                self._check()
                try:
                    report = self._trainer.next_report(LISTEN_S)
                except TimeoutError:
                    self._progress.flush()
                    continue
                if report is None:
                    raise self._died()
                if self._handle(report):
                    return
                self._progress.flush()

    def _check(self) -> None:
        """Do what is due even without a report: stop the trainer, or give the trainer up if it hangs."""
        if self._beat.lost.is_set():
            raise StaleFence(self._job.id)
        self._uploads.check()
        now, shuts_down = time.monotonic(), self._node.stopping.is_set()
        if shuts_down and self._shutdown_at is None:
            self._shutdown_at = now
        if not self._stop_sent:
            if self._beat.pause.is_set() or shuts_down:
                self._trainer.command(cmd="pause" if self._beat.pause.is_set() else "stop")
                self._stop_sent = True
        elif self._shutdown_at is not None and now - self._shutdown_at > self._node.context.settings.stop_grace_s:
            self._requeue("The worker shut down before a new state was saved.")
            raise StaleFence(self._job.id)
        if self._trainer.silent_s > self._max_silence_s():
            self._trainer.dump_stacks()
            self._trainer.wait(timeout_s=2)
            log.error("trainer_hung", job_id=self._job.id, log=self._trainer.log_tail())
            raise AttemptFailed(FailureReason.HUNG)

    def _max_silence_s(self) -> float:
        typical_s = statistics.median(self._step_seconds) if self._step_seconds else 0.0
        return max(self._node.context.settings.hung_s, 10 * typical_s)

    def _handle(self, report: Report) -> bool:
        """Handle a report. Return whether it was the last."""
        now = time.monotonic()
        match report:
            case MetricsReport():
                if self._stepped_at is None:
                    log.info("first_step", job_id=self._job.id, step=report.step)
                else:
                    self._step_seconds = [*self._step_seconds[-99:], now - self._stepped_at]
                self._step, self._stepped_at = report.step, now
                self._progress.add(report)
            case PhaseReport():
                self._begin_phase(report, now)
            case WarningReport() | SamplesReport():
                self._progress.add(report)
            case QuestionReport():
                self._judges.ask(report.question)
            case StateReport() | CheckpointReport():
                self._uploads.put(report)
            case DoneReport():
                self._finish_uploads()
                self._finish(report, now)
                return True
            case StoppedReport():
                self._finish_uploads()
                self._retrying(lambda: self._progress.flush(force=True))
                self._retrying(lambda: self._requeue(STOPPED))
                return True
            case ErrorReport():
                self._retrying(lambda: self._progress.flush(force=True))
                log.warning("trainer_failed", job_id=self._job.id, report=report, log=self._trainer.log_tail())
                raise AttemptFailed(report.reason, report.message)
        return False

    def _begin_phase(self, report: PhaseReport, now: float) -> None:
        if report.phase not in self._phases:
            log.info("phase_began", job_id=self._job.id, phase=report.phase)
            self._phases[report.phase] = now
        self._progress.add(report)

    def _finish_uploads(self) -> None:
        self._retrying(self._uploads.finish)
        if self._beat.lost.is_set():
            raise StaleFence(self._job.id)

    def _finish(self, report: DoneReport, now: float) -> None:
        self._progress.add(PhaseReport(phase="storing"))
        self._retrying(lambda: self._progress.flush(force=True))
        measured = self.measured = self._measure(report, now)
        folder = self._attempt.folder / report.path
        self._retrying(lambda: publish(self._attempt, report, folder, measured))
        self._ring_for_dependents()

    def _measure(self, report: DoneReport, now: float) -> Measured:
        return Measured(
            seconds=now - self._started_at,
            training_s=self._phases.get(FIRST_PHASE_AFTER_TRAINING, now) - self._phases.get("training", now),
            peak_bytes=report.peak_bytes,
            peaks=report.peaks,
            processor_s=report.processor_s,
            device=report.device,
        )

    def _retrying(self, act: Callable[[], None]) -> None:
        """Call `act`. During an outage, retry it until the attempt no longer owns the job or PUBLISH_PATIENCE_S have
        passed since the first failure."""
        give_up_at: float | None = None
        while True:
            try:
                act()
                return
            except (StorageUnavailable, SQLAlchemyError) as error:
                if isinstance(error, SQLAlchemyError) and not is_outage(error):
                    raise
                now = time.monotonic()
                give_up_at = now + PUBLISH_PATIENCE_S if give_up_at is None else give_up_at
                if self._beat.lost.is_set() or now > give_up_at:
                    raise
                log.warning("retrying", job_id=self._job.id, error=type(error).__name__)
                self._beat.lost.wait(RETRY_S)

    def _ring_for_dependents(self) -> None:
        """Send the rings (doorbell messages) of the jobs that waited for this job. If this fails, the sweep sends
        them."""
        waiting: Sequence[Dependency] = ()
        with contextlib.suppress(SQLAlchemyError), self._node.context.database.read() as session:
            waiting = dependencies.waiting_for(session, self._job.id)
        self._node.context.doorbell.ring_all((Stage(each.stage), each.job_id) for each in waiting)

    def _requeue(self, message: str) -> None:
        """Put the job back into the queue. This costs none of its retries."""
        claim = self._attempt.claim
        with self._node.context.database.write() as session:
            requeue(session, jobs.lock_for_attempt(session, self._job.id, claim.fence), message)
            job_queue.end_attempt(session, claim, "stopped")
        self._node.context.doorbell.ring(Stage.TRAIN, self._job.id)

    def _died(self) -> AttemptFailed:
        with contextlib.suppress(SQLAlchemyError):
            self._progress.flush(force=True)
        self.exit_code = self._trainer.wait(timeout_s=5)
        log.error("trainer_died", job_id=self._job.id, code=self.exit_code, log=self._trainer.log_tail())
        if not self._phases:
            return AttemptFailed(FailureReason.WORKER_FAULT, "The trainer ended before it read the job")
        # A kill from outside is no fault of the rows. Kills for lack of memory are recognized in train.py.
        died_at = None if -self.exit_code in SIGNALS_FROM_OUTSIDE else self._step
        return AttemptFailed(FailureReason.WORKER_LOST, _killed_by(self.exit_code), died_at=died_at)


def _killed_by(exit_code: int) -> str | None:
    """Return a sentence that names the signal which ended the trainer. None if no signal did."""
    if exit_code >= 0:
        return None
    cause = ", possibly by the system's out-of-memory killer" if -exit_code == signal.SIGKILL else ""
    return f"The trainer was killed (signal {-exit_code}){cause}."
