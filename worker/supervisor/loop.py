"""The supervisor's loop: claim, fetch, run and publish jobs until no waiting job fits a free slot."""

import errno
import shutil

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from api.infra.exhaustion import is_exhausted
from api.infra.storage import ObjectCorrupt, ObjectMissing, ReadingStopped, StorageUnavailable
from api.records import job_queue, jobs, models
from api.records.database import is_outage
from api.records.job_queue import Claim
from api.records.jobs import Job, StaleFence
from api.spec.lifecycle import FINAL, FailureReason, Stage
from worker.supervisor.attempt import AttemptContext
from worker.supervisor.faults import AttemptFailed, Interrupted, requeue, retry_or_fail
from worker.supervisor.inputs import BaseModelGone
from worker.supervisor.lease import Heartbeat
from worker.supervisor.lineage import ParentDeleted
from worker.supervisor.logs import LogUploader
from worker.supervisor.node import Node
from worker.supervisor.prepare import prepare
from worker.supervisor.scan import scan_waiting
from worker.supervisor.slots import Slot
from worker.supervisor.train import train
from worker.supervisor.work_folder import fills_disk
from worker.supervisor.write_retry import write_with_retry

log = structlog.get_logger(__name__)

OUTAGE_WAIT_S = 5
SUSPICIOUS_REASONS = (FailureReason.INTERNAL, FailureReason.WORKER_LOST, FailureReason.HUNG)
"""Reasons of failures that the worker may have caused instead of the job."""

INTERRUPTED = "The worker shut down: the job was requeued."
DATABASE_OUTAGE = "The database could not be reached. The job is retried and loses none of its retries."


def work_until_idle(node: Node) -> None:
    """Work on waiting jobs until none fits a free slot of this worker. Then scan waiting files."""
    again = True
    while again:
        with node.slots.take() as slot:
            if slot is None:
                break
            while not node.stopping.is_set() and work_once(node, slot):
                pass
        # Query the queue again if a ring came while all slots were taken: it may be later than the last query.
        again = node.slots.missed() and not node.stopping.is_set()
    if node.stage is Stage.PREPARE:
        scan_waiting(node)


def work_once(node: Node, slot: Slot) -> bool:
    """Claim a job and make one attempt at it. Return False if no job waits."""
    claim = claim_next(node, slot) if node.pause.may_work() else None
    if claim is not None:
        run_attempt(node, claim, slot)
    return claim is not None


def claim_next(node: Node, slot: Slot) -> Claim | None:
    """Claim the job that `api.records.job_queue` chooses for this worker, if one waits."""
    with node.context.database.write() as session:
        return job_queue.claim(
            session, node.stage, owner=node.owner, lease_s=node.context.settings.lease_s, gpus=slot.gpus
        )


def run_attempt(node: Node, claim: Claim, slot: Slot) -> None:
    """Make one attempt at the claimed job, and record its end even if it raises an error."""
    bound = structlog.contextvars.bound_contextvars(job_id=claim.job_id, fence=claim.fence)
    with bound, Heartbeat(node.context, claim) as beat:  # renews the lease until the attempt's end is recorded
        log.info("attempt_started", stage=claim.stage)
        try:
            _run_stage(node, claim, slot, beat)
            log.info("attempt_ended", stage=claim.stage)
            node.pause.record_success()
        except StaleFence:
            log.info("attempt_stale")
            _delete_orphans(node, claim)
        except (Interrupted, ReadingStopped):
            _requeue(node, claim, INTERRUPTED)
        except AttemptFailed as fault:
            _fail(node, claim, fault)
        except Exception as error:
            log.exception("attempt_raised")
            if isinstance(error, SQLAlchemyError) and is_outage(error):
                _requeue(node, claim, DATABASE_OUTAGE, wait_s=OUTAGE_WAIT_S)
            else:
                _fail(node, claim, _as_failure(error))


def _run_stage(node: Node, claim: Claim, slot: Slot, beat: Heartbeat) -> None:
    folder = node.folder / f"{claim.job_id}-{claim.fence}"
    try:
        folder.mkdir()
        with node.context.database.read() as session:
            job = session.get_one(Job, claim.job_id)
        with LogUploader(node, claim, folder / "log.txt"):
            attempt = AttemptContext(node, claim, job, folder, beat)
            if claim.stage is Stage.PREPARE:
                prepare(attempt)
            else:
                train(attempt, slot)
    except Exception as error:
        fault = _as_failure(error)
        if fault.reason is FailureReason.DISK_FULL and not fills_disk(folder):
            raise AttemptFailed(FailureReason.DISK_FULL, "The worker's disk was full", excused=True) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _as_failure(error: Exception) -> AttemptFailed:
    if isinstance(error, AttemptFailed):
        return error
    if isinstance(error, StorageUnavailable):
        return AttemptFailed(FailureReason.STORAGE_UNAVAILABLE)
    if isinstance(error, (ObjectMissing, ObjectCorrupt)):
        message = "Stored data of this job is missing or damaged. The operator finds its name in the worker's log."
        return AttemptFailed(FailureReason.INTERNAL, message)
    if isinstance(error, BaseModelGone):
        message = "The base model was removed while the job waited"
        return AttemptFailed(FailureReason.INVALID_RECIPE, message, param="model")
    if isinstance(error, ParentDeleted):
        return AttemptFailed(FailureReason.INVALID_RECIPE, str(error), param=error.param)
    return _failure_of_machine(error)


def _failure_of_machine(error: Exception) -> AttemptFailed:
    if is_exhausted(error):
        message = "The worker's machine has no more processes, memory or open files to give"
        return AttemptFailed(FailureReason.WORKER_FAULT, message)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return AttemptFailed(FailureReason.DISK_FULL if full else FailureReason.INTERNAL)


def _fail(node: Node, claim: Claim, fault: AttemptFailed) -> None:
    """Retry or fail the job, and note in `node.pause` what the failure says about this worker."""
    suspicious = fault.reason in SUSPICIOUS_REASONS or isinstance(fault.__cause__, ObjectMissing)
    if suspicious and (problem := node.find_problem()) is not None:
        fault = AttemptFailed(FailureReason.WORKER_FAULT, problem)
    if fault.excused:
        node.pause.begin(fault.message)
    elif fault.reason in SUSPICIOUS_REASONS:
        node.pause.suspect(claim.job_id)
    else:
        node.pause.record_success()

    def end(session: Session) -> bool:
        job = jobs.lock_for_attempt(session, claim.job_id, claim.fence)
        job_queue.end_attempt(session, claim, fault.reason)
        return retry_or_fail(session, job, fault)

    if write_with_retry(node, end):
        node.context.doorbell.ring(claim.stage, claim.job_id)


def _requeue(node: Node, claim: Claim, message: str, *, wait_s: float = 0) -> None:
    """Put the job back into the queue. This costs none of its retries."""

    def end(session: Session) -> bool:
        job = jobs.lock_for_attempt(session, claim.job_id, claim.fence)  # first, as a cancel does: no deadlock
        job_queue.end_attempt(session, claim, "stopped")
        requeue(session, job, message, wait_s=wait_s)
        return True

    if write_with_retry(node, end):
        node.context.doorbell.ring(claim.stage, claim.job_id)


def _delete_orphans(node: Node, claim: Claim) -> None:
    """Delete what an attempt that no longer owns the job has stored: its model, unless it was published, and the job's
    saved states, if the job has ended."""
    if claim.stage is not Stage.TRAIN:
        return
    try:
        with node.context.database.read() as session:
            job = session.get_one(Job, claim.job_id)
            model = models.get(session, job.project_id, job.model_id)
        prefix = f"models/{claim.job_id}/{claim.fence}"
        if model is None or not any(artifact["key"].startswith(f"{prefix}/") for artifact in model.artifacts):
            node.context.storage.delete_prefix(prefix)
        if job.status in FINAL:
            node.context.storage.delete_prefix(f"states/{claim.job_id}")
    except (SQLAlchemyError, StorageUnavailable):
        log.exception("orphans_not_deleted")
