"""When an attempt ends badly: another attempt, or the job's end, by the class of the fault."""

from typing import Any

import structlog
from sqlalchemy.orm import Session

from api.lifecycle import FAILURES, POISON_DEATHS, FailureReason, JobStatus, Stage
from api.records import events, jobs
from api.records.base import db_now
from api.records.jobs import Job

log = structlog.get_logger(__name__)

BACKOFF_S = (0, 5, 15, 45, 120)
"""Before the first retry, the second, …"""


class AttemptFailed(Exception):
    """Why an attempt ended. The message, if there is one, is the user's."""

    def __init__(
        self,
        reason: FailureReason,
        message: str | None = None,
        *,
        code: str | None = None,
        param: str | None = None,
        died: bool = False,
    ) -> None:
        super().__init__(message or FAILURES[reason].sentence)
        self.reason = reason
        self.message = message or FAILURES[reason].sentence
        self.code = code or FAILURES[reason].code
        self.param = param
        self.died = died
        """The trainer was gone without a word."""


def settle(session: Session, job: Job, fault: AttemptFailed) -> bool:
    """Put the job back in line, or fail it. Returns whether it waits again. Raises Stale."""
    if fault.died and jobs.count_death(session, job.id, job.progress.get("step", 0)) >= POISON_DEATHS:
        fault = AttemptFailed(FailureReason.POISON)
    count = jobs.count_fault(session, job.id, fault.reason)
    retries = FAILURES[fault.reason].retries
    log.warning("attempt_failed", job_id=job.id, reason=fault.reason, count=count, retries=retries)
    if count > retries:
        error = {"code": fault.code, "message": fault.message, "param": fault.param}
        jobs.move(session, job.id, JobStatus.FAILED, message=fault.message, level="error", fence=job.fence, error=error)
        return False
    wait_s = BACKOFF_S[min(count, len(BACKOFF_S)) - 1]
    put_back(session, job, f"{_WHY[fault.reason]} Trying again ({count} of {retries}).", wait_s=wait_s)
    return True


_WHY = {reason: FAILURES[reason].sentence for reason in FailureReason} | {
    FailureReason.WORKER_LOST: "The worker or its trainer was lost.",
    FailureReason.OUT_OF_MEMORY: "Training ran out of memory.",
    FailureReason.STORAGE_UNAVAILABLE: "The object storage could not be reached.",
    FailureReason.DISK_FULL: "The worker's disk was full.",
    FailureReason.INTERNAL: "Something unexpected went wrong.",
}


def put_back(session: Session, job: Job, message: str, *, wait_s: float = 0) -> None:
    """Make the job claimable again, or paused if its user asked for that meanwhile. Raises Stale."""
    after: dict[str, Any] = {"run_after": db_now() + wait_s if wait_s else None, "rung_at": None}
    if job.status == Stage.PREPARE.leased:
        jobs.write(session, job.id, job.fence, owner=None, lease_until=None, fence=Job.fence + 1, **after)
        events.say(session, job.id, message, level="warn")
    elif job.pause_requested:
        jobs.move(session, job.id, JobStatus.PAUSED, message="Fine-tuning job paused", fence=job.fence)
    else:
        jobs.move(
            session,
            job.id,
            JobStatus.QUEUED,
            message=message,
            level="warn",
            fence=job.fence,
            **after,
        )
