"""Correction of times that lie in the future because the database's clock was set back.

A lease that was taken before ends, by the new time, later than any lease can. A worker that lives renews it within
seconds. If the worker is lost, nobody could take over its work until that time: for an hour, if the clock was an hour
fast. Nor could anybody begin a batch or a run of an eval that was created before. A deliverer corrects the times of
its deliveries (worker/delivery/clock_steps.py).
"""

from sqlalchemy import case, select, true, update
from sqlalchemy.orm import Session

from api.records import batch_items, eval_items
from api.records.base import current_time, db_now
from api.records.batches import Batch
from api.records.eval_runs import EvalRun
from api.records.files import File
from api.records.idempotency import IdempotentRequest
from api.records.item_queue import I, W, WorkQueue
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
        (true(), EvalRun.due_at, lease_s + check_s),
        (IdempotentRequest.status.is_(None), IdempotentRequest.claimed_until, lease_s),
        (Worker.stopped_at.is_(None), Worker.seen_at, 0.0),
    ):
        latest = db_now() + longest_s
        session.execute(update(column.class_).where(condition, column > latest).values({column: latest}))
    _shorten_items(session, batch_items.QUEUE, lease_s, wait_s)
    _shorten_items(session, eval_items.QUEUE, lease_s, wait_s)


def _shorten_items(session: Session, queue: WorkQueue[W, I], lease_s: float, wait_s: float) -> None:
    """Shorten the leases and waits of the items of work that is in progress.

    All other items are left unread, since ended runs keep millions of them. The query names the time and no `owner`, so
    that the databases read the index on the work and `due_at`.
    """
    item, now = queue.item, current_time(session)
    in_progress = select(queue.work.id).where(queue.work.status == queue.in_progress)
    latest = now + case((item.owner.is_(None), wait_s), else_=lease_s)
    late = (item.work_id.in_(in_progress), item.due_at > now + min(lease_s, wait_s), item.due_at > latest)
    session.execute(update(item).where(*late).values(due_at=latest))
