"""The sweep: every few seconds, each worker searches for lost jobs and missed rings.

A job is lost if its lease has expired. A ring is the message that makes a worker query the queue; a waiting job may
have lost its ring. A separate thread deletes data that is no longer needed.
"""

import threading
import time
from functools import partial
from importlib.metadata import version

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from api.context import Context
from api.infra.storage import StorageUnavailable
from api.records import clock_steps, job_queue, scans, stored_bytes, usage, workers
from api.records.base import current_time
from api.records.job_queue import Claim
from api.records.jobs import Job
from api.records.usage import NO_MODEL, UNKNOWN_KEY, Account
from api.spec.lifecycle import FailureReason, Stage
from worker.shared.hardware import worker_resources
from worker.supervisor import retention
from worker.supervisor.faults import LONGEST_WAIT_S, AttemptFailed, retry_or_fail
from worker.supervisor.model_cache import make_room
from worker.supervisor.node import Node
from worker.supervisor.scan import fail_abandoned_scans

log = structlog.get_logger(__name__)


class Sweeper:
    def __init__(self, node: Node, wake: threading.Event) -> None:
        """`wake`: an event that the sweep sets if jobs of this stage wait, so that this worker's threads query the
        queue."""
        self._node, self._wake = node, wake
        self._resources = worker_resources(node.gpu_names, slots=node.slots.count)
        self._started_at: float | None = None
        """When this worker started, by the database's clock."""

    def run(self) -> None:
        node, settings = self._node, self._node.context.settings
        swept_at: float | None = None
        while not node.stopping.is_set():
            try:
                now = observe_database(node)
                self._started_at = self._started_at or now
                if swept_at is None or time.monotonic() - swept_at >= settings.sweep_s:
                    swept_at = time.monotonic()
                    self._sweep()
            except SQLAlchemyError as error:
                log.warning("sweep_failed", error=type(error).__name__)
                node.visibility.record_outage()
            except Exception:
                log.exception("sweep_failed")
            node.stopping.wait(min(settings.sweep_s, node.visibility.poll_s))

    def _sweep(self) -> None:
        node = self._node
        with node.context.database.write() as session:
            workers.register(
                session,
                owner=node.owner,
                stage=node.stage,
                slots=node.slots.count,
                gpus=node.gpus,
                version=version("attune"),
                started_at=self._started_at,
                scanning=node.scanning.locked(),
                held=node.pause.reason,
                **self._resources,
            )
            workers.inherit_observations(session, node.owner)
            clock_steps.shorten(
                session,
                lease_s=node.context.settings.lease_s,
                wait_s=LONGEST_WAIT_S,
                check_s=node.context.previews.longest_s,
            )
        requeue_expired(node)
        with node.context.database.write() as session:
            job_queue.end_orphaned_attempts(session)
            due = job_queue.ring_due(session, node.context.settings.ring_again_s)
            waiting = job_queue.has_waiting(session, node.stage) or (
                node.stage is Stage.PREPARE and scans.has_waiting(session)
            )
        node.context.doorbell.ring_all((stage, job_id) for job_id, stage in due)
        if waiting:
            self._wake.set()  # in case the ring is lost: the broker or Celery's connection may have failed


def observe_database(node: Node) -> float:
    """Return the database's time, and note that the database answered."""
    with node.context.database.read() as session:
        now = current_time(session)
    node.visibility.record_answer(now)
    return now


def requeue_expired(node: Node) -> None:
    """Requeue the jobs whose leases have expired, or fail those that were lost too often. Does nothing for the length
    of a lease after the database could not be reached (visibility.py)."""
    with node.context.database.write() as session:
        expired = job_queue.expired(session)
        trusted = node.visibility.record_answer(current_time(session))
        if expired and not trusted:
            log.info("expired_leases_ignored", jobs=len(expired))
            return
        for job in expired:
            log.warning("lease_expired", job_id=job.id, owner=job.owner, fence=job.fence)
            _requeue_lost(session, job)


def requeue_own(node: Node) -> None:
    """Requeue the jobs that this worker held when it died. Call it at the worker's start, before the worker claims a
    job."""
    with node.context.database.write() as session:
        for job in job_queue.leased_by(session, node.owner):
            log.warning("job_left_behind", job_id=job.id, fence=job.fence)
            _requeue_lost(session, job)


def _requeue_lost(session: Session, job: Job) -> None:
    stage = job_queue.stage_of(job.status)
    job_queue.end_attempt(session, Claim(job.id, job.project_id, stage, job.fence), FailureReason.WORKER_LOST)
    retry_or_fail(session, job, AttemptFailed(FailureReason.WORKER_LOST))


def housekeep(node: Node) -> None:
    """Delete data that is no longer needed, until the worker stops. Runs in a thread of its own: a slow storage must
    not delay the sweep."""
    context = node.context
    retained_at: float = -retention.INTERVAL_S
    while not node.stopping.is_set():
        tasks = [
            partial(make_room, node.cache / "base"),
            partial(fail_abandoned_scans, node),
            *retention.each_sweep(context),
        ]
        if time.monotonic() - retained_at >= retention.INTERVAL_S:
            retained_at = time.monotonic()
            tasks += [*retention.each_interval(context), partial(record_stored_bytes, context)]
        for task in tasks:
            _try(task)
        node.stopping.wait(context.settings.sweep_s)


def _try(task: "partial[None]") -> None:
    """Do the task, and log its failure: a storage that refuses some deletions must not end all others."""
    try:
        task()
    except (SQLAlchemyError, StorageUnavailable) as error:
        log.warning("housekeeping_failed", task=task.func.__name__, error=type(error).__name__)
    except Exception:
        log.exception("housekeeping_failed", task=task.func.__name__)


def record_stored_bytes(context: Context) -> None:
    """Enter the projects' stored bytes in the usage ledger, which keeps the largest value of each day."""
    with context.database.read() as session:
        totals = stored_bytes.by_key(session)
    with context.database.write() as session:
        for (project_id, key_id), size in totals.items():
            usage.record_stored(session, Account(project_id, key_id or UNKNOWN_KEY, NO_MODEL), size)
