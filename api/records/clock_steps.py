"""Correction of times that lie in the future because the database's clock was set back.

A lease that was taken before ends, by the new time, later than any lease can. A worker that lives renews it within
seconds. If the worker is lost, nobody could take over its work until that time: for an hour, if the clock was an hour
fast.
"""

from sqlalchemy import update
from sqlalchemy.orm import Session

from api.records.base import db_now
from api.records.batch_items import BatchItem
from api.records.eval_items import EvalItem
from api.records.files import File
from api.records.jobs import Job
from api.records.workers import Worker
from api.spec.lifecycle import Stage


def shorten(session: Session, *, lease_s: float, wait_s: float) -> None:
    """Shorten leases to `lease_s`, which is the longest one, and the waits of jobs before a retry to `wait_s`.

    A worker counts as last seen now at the latest.
    """
    stages = Job.status.in_([status for stage in Stage for status in (stage.waiting, stage.leased)])
    for condition, column, longest_s in (
        (stages, Job.lease_until, lease_s),
        (stages, Job.run_after, wait_s),
        (File.scan_status == "pending", File.scan_until, lease_s),
        (BatchItem.owner.is_not(None), BatchItem.due_at, lease_s),
        (EvalItem.owner.is_not(None), EvalItem.due_at, lease_s),
        (Worker.stopped_at.is_(None), Worker.seen_at, 0.0),
    ):
        latest = db_now() + longest_s
        session.execute(update(column.class_).where(condition, column > latest).values({column: latest}))
