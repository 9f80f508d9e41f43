"""The supervisor: claim → fetch → run → hand over, again and again until no waiting job fits a free slot."""

import contextlib
import shutil

import structlog
from sqlalchemy.exc import DBAPIError

from api.lifecycle import FailureReason, Stage
from api.records import jobs, queue
from api.records.jobs import Job, Stale
from api.records.queue import Claim
from api.storage import Corrupt, ObjectMissing, StorageUnavailable
from worker.supervisor.faults import AttemptFailed, put_back, settle
from worker.supervisor.inputs import BaseModelGone
from worker.supervisor.lease import Heartbeat
from worker.supervisor.node import Node
from worker.supervisor.preparing import Interrupted, prepare
from worker.supervisor.slots import Slot
from worker.supervisor.training import train
from worker.supervisor.warm import WarmTrainers

log = structlog.get_logger(__name__)


def drain(node: Node, warm: WarmTrainers) -> None:
    """Work on waiting jobs until none is left that fits a free slot of this worker."""
    again = True
    while again:
        with node.slots.take() as slot:
            if slot is None:
                return
            while not node.stopping.is_set() and (claim := claim_next(node, slot)) is not None:
                run_attempt(node, claim, slot, warm)
        # Somebody rang while this slot was still taken, and after its last look at the queue: look again.
        again = node.slots.missed() and not node.stopping.is_set()


def claim_next(node: Node, slot: Slot) -> Claim | None:
    with node.context.database.write() as session:
        return queue.claim(session, node.stage, owner=node.owner, lease_s=node.context.settings.lease_s, gpus=slot.gpus)


def run_attempt(node: Node, claim: Claim, slot: Slot, warm: WarmTrainers) -> None:
    """One attempt, whatever comes of it."""
    with structlog.contextvars.bound_contextvars(job_id=claim.job_id, fence=claim.fence):
        folder = node.run_folder(f"{claim.job_id}-{claim.fence}")
        log.info("attempt_started", stage=claim.stage)
        try:
            with node.context.database.read() as session:
                job = session.get_one(Job, claim.job_id)
            with Heartbeat(node.context, claim) as beat:
                if claim.stage is Stage.PREPARE:
                    prepare(node, claim, job, folder, beat)
                else:
                    with warm.take(slot) as trainer:
                        train(node, claim, job, slot, trainer, folder, beat)
            log.info("attempt_ended")
        except Stale:
            log.info("attempt_stale")
        except Interrupted:
            _settle(node, claim, None)
        except AttemptFailed as fault:
            _settle(node, claim, fault)
        except (StorageUnavailable, ObjectMissing, Corrupt) as error:
            log.warning("storage_fault", error=str(error))
            _settle(node, claim, AttemptFailed(FailureReason.STORAGE_UNAVAILABLE))
        except BaseModelGone:
            message = "The base model was removed while the job waited"
            _settle(node, claim, AttemptFailed(FailureReason.INVALID_RECIPE, message, param="model"))
        except OSError as error:
            log.exception("attempt_broke")
            full = error.errno in (28, 122)  # ENOSPC, EDQUOT
            _settle(node, claim, AttemptFailed(FailureReason.DISK_FULL if full else FailureReason.INTERNAL))
        except Exception:
            log.exception("attempt_broke")
            _settle(node, claim, AttemptFailed(FailureReason.INTERNAL))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _settle(node: Node, claim: Claim, fault: AttemptFailed | None) -> None:
    """End the attempt in the records. If even that fails, the lease runs out and the sweep does it."""
    with contextlib.suppress(Stale):
        try:
            with node.context.database.write() as session:
                job = jobs.held(session, claim.job_id, claim.fence)
                queue.end_attempt(session, claim, "stopped" if fault is None else fault.reason)
                if fault is None:
                    put_back(session, job, "The worker was asked to stop: the job waits for another.")
                    waits = True
                else:
                    waits = settle(session, job, fault)
        except DBAPIError:
            log.exception("not_settled")
            return
        if waits:
            node.context.doorbell.ring(claim.stage, claim.job_id)
