"""The sweep: every worker looks every few seconds for what fell through.

Leases that ran out, waiting jobs that nobody has rung for, states of jobs that have ended.
"""

import threading
import time

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from api.context import Context
from api.infra.storage import StorageUnavailable
from api.records import files, idempotency, jobs, queue, scans, uploads, webhooks, workers
from api.records.base import time_of
from api.records.jobs import Job
from api.records.queue import Claim
from api.spec.lifecycle import FailureReason, Stage
from worker.shared.hardware import registered
from worker.supervisor.faults import AttemptFailed, retry_or_fail
from worker.supervisor.node import Node
from worker.supervisor.scan import give_up

log = structlog.get_logger(__name__)


class Sweeper:
    def __init__(self, node: Node, drain: threading.Event) -> None:
        self._node, self._drain = node, drain
        self._machine = registered(node.gpu_names, slots=node.slots.count, warm=node.context.settings.warm_trainers)

    def run(self) -> None:
        node, settings = self._node, self._node.context.settings
        swept_at: float | None = None
        while not node.stopping.is_set():
            try:
                see_database(node)
                if swept_at is None or time.monotonic() - swept_at >= settings.sweep_s:
                    swept_at = time.monotonic()
                    self._sweep()
            except SQLAlchemyError as error:
                log.warning("sweep_failed", error=type(error).__name__)
                node.watch.missed()
            except Exception:
                log.exception("sweep_failed")
            node.stopping.wait(min(settings.sweep_s, node.watch.look_s))

    def _sweep(self) -> None:
        node = self._node
        with node.context.database.write() as session:
            train_slots = node.slots.count if node.stage is Stage.TRAIN else 0
            workers.seen(
                session,
                owner=node.owner,
                gpus=node.gpus,
                train_slots=train_slots,
                held=node.hold.why,
                **self._machine,
            )
        take_back(node)
        with node.context.database.write() as session:
            queue.end_attempts_of_ended(session)
            due = queue.ring_due(session, node.context.settings.ring_again_s)
            waits = queue.has_waiting(session, node.stage) or (
                node.stage is Stage.PREPARE and scans.has_waiting(session)
            )
        for job_id, stage in due:
            node.context.doorbell.ring(stage, job_id)
        if waits:
            self._drain.set()  # and look ourselves: the broker may be away, or our ear to it deaf


def see_database(node: Node) -> None:
    with node.context.database.read() as session:
        node.watch.saw(time_of(session))


def take_back(node: Node) -> None:
    """Give the jobs of silent workers to others, or fail those that were lost too often."""
    with node.context.database.write() as session:
        expired = queue.expired(session)
        trusted = node.watch.saw(time_of(session))
        if expired and not trusted:
            log.info("not_judged", jobs=len(expired))
            return
        for job in expired:
            log.warning("lease_expired", job_id=job.id, owner=job.owner, fence=job.fence)
            _lost(session, job)


def take_back_own(node: Node) -> None:
    """Give back what this worker held when it died. For its start, before it takes anything."""
    with node.context.database.write() as session:
        for job in queue.held_by(session, node.owner):
            log.warning("left_behind", job_id=job.id, fence=job.fence)
            _lost(session, job)


def _lost(session: Session, job: Job) -> None:
    stage = Stage.TRAIN if job.status == Stage.TRAIN.leased else Stage.PREPARE
    queue.end_attempt(session, Claim(job.id, job.project_id, stage, job.fence), FailureReason.WORKER_LOST)
    retry_or_fail(session, job, AttemptFailed(FailureReason.WORKER_LOST))


def housekeep(node: Node) -> None:
    """Clear away, again and again, in a thread of its own: a slow storage must not keep the sweep from its watch."""
    while not node.stopping.is_set():
        try:
            give_up(node)
            forget_states(node)
            tidy(node.context)
        except (SQLAlchemyError, StorageUnavailable) as error:
            log.warning("housekeeping_failed", error=type(error).__name__)
        except Exception:
            log.exception("housekeeping_failed")
        node.stopping.wait(node.context.settings.sweep_s)


def forget_states(node: Node) -> None:
    """Saved states of jobs that have ended are of no more use."""
    with node.context.database.read() as session:
        ended = jobs.ended_with_state(session)
    for job_id in ended:
        node.context.storage.delete_prefix(f"states/{job_id}")
        with node.context.database.write() as session:
            jobs.forget_state(session, job_id)


log = structlog.get_logger(__name__)

UPLOAD_GRACE_S = 900
"""A completion that was begun in time may take so long."""
KEEP_LOGS_S = 90 * 24 * 3600
KEEP_DELIVERIES_S = 30 * 24 * 3600
KEEP_WORKERS_S = 30 * 24 * 3600


def tidy(context: Context) -> None:
    end_uploads(context)
    remove_expired_files(context)
    remove_old_logs(context)
    with context.database.write() as session:
        idempotency.forget(session)
        webhooks.forget(session, KEEP_DELIVERIES_S)
        workers.forget(session, KEEP_WORKERS_S)


def end_uploads(context: Context, grace_s: float = UPLOAD_GRACE_S) -> None:
    """Mark uploads that were not completed in time, and remove the parts of those that have ended."""
    with context.database.write() as session:
        uploads.expire(session)
    with context.database.read() as session:
        ended = uploads.ended_with_parts(session, grace_s)
    for upload_id in ended:
        context.storage.delete_prefix(f"uploads/{upload_id}")
        with context.database.write() as session:
            uploads.forget_parts(session, upload_id)


def remove_expired_files(context: Context) -> None:
    """All but those that a job which has not ended needs."""
    with context.database.write() as session:
        gone = [file for file in files.expired(session) if not jobs.using_file(session, file.project_id, file.id)]
        for file in gone:
            files.remove(session, file)
    context.storage.delete([file.storage_key for file in gone if file.storage_key is not None])
    if gone:
        log.info("expired_files_removed", count=len(gone))


def remove_old_logs(context: Context, keep_s: float = KEEP_LOGS_S) -> None:
    """Of jobs that ended so long ago."""
    with context.database.read() as session:
        old = queue.with_old_logs(session, keep_s)
    for job_id in old:
        context.storage.delete_prefix(f"logs/{job_id}")
        with context.database.write() as session:
            queue.forget_logs(session, job_id)
