"""The sweep: every worker looks every few seconds for what fell through.

Leases that ran out, waiting jobs that nobody has rung for, states of jobs that have ended.
"""

import threading
import time

import structlog
from sqlalchemy.exc import SQLAlchemyError

from api.lifecycle import FailureReason, Stage
from api.records import jobs, queue, scans, workers
from api.records.queue import Claim
from api.storage import StorageUnavailable
from worker.hardware import cpu_multiplies_bfloat16, gpu_memory_bytes, memory_bytes
from worker.supervisor.faults import AttemptFailed, settle
from worker.supervisor.node import Node
from worker.supervisor.scanning import give_up
from worker.supervisor.tidy import tidy

log = structlog.get_logger(__name__)


class Sweeper:
    def __init__(self, node: Node, drain: threading.Event) -> None:
        self._node, self._drain = node, drain
        self._machine = {
            "memory_bytes": memory_bytes(),
            "gpu_memory_bytes": gpu_memory_bytes("total") if node.gpus else None,
            "bfloat16": cpu_multiplies_bfloat16(),
        }
        self._trusted_from = 0.0
        """Monotonic time before which no lease is taken away: beats may have failed for the same reason as we did."""

    def run(self) -> None:
        while not self._node.stopping.is_set():
            try:
                self._sweep()
            except SQLAlchemyError as error:
                log.warning("sweep_failed", error=type(error).__name__)
                self._trusted_from = time.monotonic() + self._node.context.settings.lease_s
            except StorageUnavailable as error:
                log.warning("sweep_failed", error=str(error))
            except Exception:
                log.exception("sweep_failed")
            self._node.stopping.wait(self._node.context.settings.sweep_s)

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
        if time.monotonic() >= self._trusted_from:
            take_back(node)
        with node.context.database.write() as session:
            due = queue.ring_due(session, node.context.settings.ring_again_s)
            waits = queue.waits(session, node.stage) or (node.stage is Stage.PREPARE and scans.waits(session))
        for job_id, stage in due:
            node.context.doorbell.ring(stage, job_id)
        if waits:
            self._drain.set()  # and look ourselves: the broker may be away, or our ear to it deaf
        give_up(node)
        forget_states(node)
        tidy(node.context)


def take_back(node: Node) -> None:
    """Give the jobs of silent workers to others, or fail those that were lost too often."""
    with node.context.database.write() as session:
        for job in queue.expired(session):
            stage = Stage.TRAIN if job.status == Stage.TRAIN.leased else Stage.PREPARE
            log.warning("lease_expired", job_id=job.id, owner=job.owner, fence=job.fence)
            queue.end_attempt(session, Claim(job.id, job.project_id, stage, job.fence), FailureReason.WORKER_LOST)
            settle(session, job, AttemptFailed(FailureReason.WORKER_LOST))


def forget_states(node: Node) -> None:
    """Saved states of jobs that have ended are of no more use."""
    with node.context.database.read() as session:
        ended = jobs.ended_with_state(session)
    for job_id in ended:
        node.context.storage.delete_prefix(f"states/{job_id}")
        with node.context.database.write() as session:
            jobs.forget_state(session, job_id)
