"""The consequence of a failed attempt: another attempt or the failure of the job, depending on the reason."""

import signal

import structlog
from sqlalchemy.orm import Session

from api.records import events, faults, jobs
from api.records.base import db_now
from api.records.jobs import Job
from api.spec.lifecycle import FAILURES, POISON_DEATHS, FailureReason, JobStatus, Stage

log = structlog.get_logger(__name__)

BACKOFF_S = (0, 5, 15, 45, 120)
"""Seconds before the first retry, the second, and so on. The last value holds for all later ones."""
EXCUSED_BACKOFF_S = (5, 15, 45, 120)
"""Seconds before each retry after a failure of the infrastructure. Such failures are retried without limit."""
LONGEST_WAIT_S = max(*BACKOFF_S, *EXCUSED_BACKOFF_S)
"""Longest wait of a job before a retry, in seconds. No item of a batch or an eval waits longer
(api.background.postponed)."""

SIGNALS_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that an operator or the kernel sends. Other signals are caused by the process itself."""
PREFER_ANOTHER_S = 60
"""Seconds for which a requeued job waits for another worker than the one on which it failed, if there is another."""


class Interrupted(Exception):
    """The worker is shutting down: the attempt is no fault of the job, which keeps its retries."""


class AttemptFailed(Exception):
    """The attempt has failed. The message is shown to the user."""

    def __init__(
        self,
        reason: FailureReason,
        message: str | None = None,
        *,
        code: str | None = None,
        param: str | None = None,
        died_at: int | None = None,
        excused: bool = False,
    ) -> None:
        super().__init__(message or FAILURES[reason].sentence)
        self.reason = reason
        self.message = message or FAILURES[reason].sentence
        self.code = code or FAILURES[reason].code
        self.param = param
        self.died_at = died_at
        """The step at which the child ended without a last report, if the job itself may be the cause. Repeated ends at
        the same step fail the job."""
        self.excused = excused or FAILURES[reason].retries is None
        """Whether the worker, or a service that it depends on, is at fault: the job is then requeued and keeps its
        retries."""


def retry_or_fail(session: Session, job: Job, fault: AttemptFailed) -> bool:
    """Requeue the job or fail it. Return whether it was requeued. Raises StaleFence if the attempt no longer owns the
    job."""
    if fault.excused:
        _excuse(session, job, fault)
        return True
    if fault.died_at is not None and faults.count_death(session, job.id, fault.died_at) >= POISON_DEATHS:
        fault = AttemptFailed(FailureReason.POISON)
    count = faults.count(session, job.id, fault.reason)
    retries = FAILURES[fault.reason].retries or 0
    log.warning("attempt_failed", job_id=job.id, reason=fault.reason, count=count, retries=retries)
    if count > retries:
        error = {"code": fault.code, "message": fault.message, "param": fault.param}
        jobs.transition(
            session, job.id, JobStatus.FAILED, message=fault.message, level="error", fence=job.fence, error=error
        )
        return False
    wait_s = BACKOFF_S[min(count, len(BACKOFF_S)) - 1]
    faults.avoid(session, job.id, job.owner, wait_s + PREFER_ANOTHER_S)
    requeue(session, job, f"{_sentence(fault)} Retrying ({count} of {retries}).", wait_s=wait_s)
    return True


def _excuse(session: Session, job: Job, fault: AttemptFailed) -> None:
    count = faults.count(session, job.id, faults.EXCUSED)
    wait_s = EXCUSED_BACKOFF_S[min(count, len(EXCUSED_BACKOFF_S)) - 1]
    faults.avoid(session, job.id, job.owner, wait_s + PREFER_ANOTHER_S)
    log.warning("attempt_excused", job_id=job.id, reason=fault.reason, count=count, wait_s=wait_s)
    message = f"{_sentence(fault)} The job is retried in {wait_s} s and loses none of its retries."
    requeue(session, job, message, wait_s=wait_s)


def _sentence(fault: AttemptFailed) -> str:
    why = _EVENT_SENTENCES[fault.reason] if fault.message == FAILURES[fault.reason].sentence else fault.message
    return why if why.endswith(".") else f"{why}."


_EVENT_SENTENCES = {reason: FAILURES[reason].sentence for reason in FailureReason} | {
    FailureReason.WORKER_LOST: "The worker or its trainer was lost.",
    FailureReason.OUT_OF_MEMORY: "Training ran out of memory.",
    FailureReason.DISK_FULL: "The job's own files filled the worker's disk.",
    FailureReason.INTERNAL: "The attempt ended because of a fault in Attune; the worker's log has the details.",
}
"""Sentences for the event of a retry: as in FAILURES, except where the sentence there states that the job has
failed."""


def requeue(session: Session, job: Job, message: str, *, wait_s: float = 0) -> None:
    """Put the job back into the queue, or pause it if its user has requested that. Raises StaleFence if the attempt no
    longer owns the job."""
    after: dict[str, object] = {"run_after": db_now() + wait_s if wait_s else None, "rung_at": None}
    if job.status == Stage.PREPARE.leased:
        jobs.update_fenced(session, job.id, job.fence, owner=None, lease_until=None, fence=Job.fence + 1, **after)
        events.add_event(session, job.id, message, level="warn")
    elif job.pause_requested:
        jobs.transition(session, job.id, JobStatus.PAUSED, message="Fine-tuning job paused", fence=job.fence)
    else:
        jobs.transition(
            session,
            job.id,
            JobStatus.QUEUED,
            message=message,
            level="warn",
            fence=job.fence,
            **after,
        )
