"""Correction of times that lie in the future because the database's clock was set back.

A lease that was taken before ends, by the new time, later than any lease can. A worker that lives renews it within
seconds. If the worker is lost, nobody could take over its work until that time: for an hour, if the clock was an hour
fast. Nor could anybody begin a batch or a run of an eval that was created before. A deliverer corrects the times of
its deliveries (worker/delivery/clock_steps.py).
"""

from sqlalchemy import true, update
from sqlalchemy.orm import Session

from api.records.base import db_now
from api.records.batch_items import BatchItem
from api.records.batches import Batch
from api.records.eval_items import EvalItem
from api.records.eval_runs import EvalRun
from api.records.files import File
from api.records.idempotency import IdempotentRequest
from api.records.jobs import Job
from api.records.workers import Worker
from api.spec.batch import BatchStatus
from api.spec.lifecycle import Stage


def shorten(session: Session, *, lease_s: float, wait_s: float, check_s: float) -> None:
    """Shorten leases to `lease_s`, which is the longest one, and waits before a retry to `wait_s`.

    While a grader is checked, for `check_s` at most, the lease of its run is longer by this time. A worker counts as
    last seen now at the latest, and a waiting job's last ring was sent now at the latest.
    """
    stages = Job.status.in_([status for stage in Stage for status in (stage.waiting, stage.leased)])
    for condition, column, longest_s in (
        (stages, Job.lease_until, lease_s),
        (stages, Job.run_after, wait_s),
        (stages, Job.rung_at, 0.0),
        (File.scan_status == "pending", File.scan_until, lease_s),
        (Batch.status != BatchStatus.IN_PROGRESS, Batch.due_at, lease_s),  # in progress: the end of its window
        (BatchItem.owner.is_not(None), BatchItem.due_at, lease_s),
        (BatchItem.owner.is_(None), BatchItem.due_at, wait_s),
        (true(), EvalRun.due_at, lease_s + check_s),
        (EvalItem.owner.is_not(None), EvalItem.due_at, lease_s),
        (EvalItem.owner.is_(None), EvalItem.due_at, wait_s),
        (IdempotentRequest.status.is_(None), IdempotentRequest.claimed_until, lease_s),
        (Worker.stopped_at.is_(None), Worker.seen_at, 0.0),
    ):
        latest = db_now() + longest_s
        session.execute(update(column.class_).where(condition, column > latest).values({column: latest}))
