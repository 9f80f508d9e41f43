"""Export tasks: each sends the metrics of a job to a tracker, or pushes its model to a hub.

A row does not record what was sent. The deliverer asks the tracker which metrics it already has, so that nothing is
sent twice or missed when another deliverer takes the task over.
"""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, ForeignKey, Integer, String, Text, case, or_, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, UnixTime, db_now
from api.spec.fields import JsonObject

HUB = "hub"
"""Value of `tracker` for a task that pushes a model to a hub."""
BACK_OFF_S = (10, 30, 60, 120, 300, 900, 3600)
"""Seconds to wait after the first, second, … consecutive failure; after more failures, the last value."""


class ExportTask(Base):
    __tablename__ = "trackings"

    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    """`JOB:TRACKER:NUMBER`, from the next three columns."""
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    tracker: Mapped[str] = mapped_column(String(16))
    number: Mapped[int] = mapped_column(Integer)
    """Index among the job's tasks for the same tracker."""
    options: Mapped[JsonObject | None]
    """The job's options for this task (api.spec.outputs.Wandb, api.spec.outputs.Hub)."""
    created_at: Mapped[float] = mapped_column(UnixTime)
    due_at: Mapped[float | None] = mapped_column(UnixTime, index=True)
    """Time of the next delivery; None before the job runs, and once everything is sent or the task has failed."""
    owner: Mapped[str | None] = mapped_column(String(128), index=True)
    """The deliverer that holds the lease."""
    lease_until: Mapped[float | None] = mapped_column(UnixTime)
    failures: Mapped[int] = mapped_column(Integer, default=0)
    """Number of consecutive failures up to the last attempt."""
    url: Mapped[str | None] = mapped_column(Text)
    """Address of the page of the run or repository; None until it is known."""


def add(
    session: Session,
    job_id: str,
    tracker: str,
    number: int = 0,
    options: JsonObject | None = None,
    *,
    at_once: bool = False,
) -> None:
    """Add a task, due when the job starts to run, or now with `at_once`."""
    session.add(
        ExportTask(
            id=f"{job_id}:{tracker}:{number}",
            job_id=job_id,
            tracker=tracker,
            number=number,
            options=options,
            created_at=db_now(),
            due_at=db_now() if at_once else None,
        )
    )
    session.flush()


def make_due(session: Session, job_id: str) -> None:
    """Make the job's tasks due. Call it whenever the job starts to run."""
    session.execute(
        update(ExportTask).where(ExportTask.job_id == job_id, ExportTask.due_at.is_(None)).values(due_at=db_now())
    )


def due(session: Session, tracker: str, owner: str) -> Sequence[str]:
    """Return the ids of the due tasks that this deliverer may lease, the longest due first."""
    return session.scalars(select(ExportTask.id).where(*_due(tracker, owner)).order_by(ExportTask.due_at)).all()


def held(session: Session, tracker: str, owner: str) -> set[str]:
    """Return the ids of the tracker's tasks that this deliverer holds. A task with an expired lease is included until
    another deliverer leases it."""
    return set(session.scalars(select(ExportTask.id).where(ExportTask.tracker == tracker, ExportTask.owner == owner)))


def lease(session: Session, tracking_id: str, tracker: str, owner: str, lease_s: float) -> ExportTask | None:
    """Lease the task to this deliverer. Return None if another deliverer was faster."""
    tracking = session.scalars(
        select(ExportTask).where(ExportTask.id == tracking_id, *_due(tracker, owner)).with_for_update(skip_locked=True)
    ).one_or_none()
    if tracking is None:
        return None
    tracking.owner, tracking.lease_until = owner, db_now() + lease_s
    session.flush()
    session.refresh(tracking)
    return tracking


def _due(tracker: str, owner: str) -> tuple[ColumnElement[bool], ...]:
    free = or_(ExportTask.owner.is_(None), ExportTask.owner == owner, ExportTask.lease_until < db_now())
    return (ExportTask.tracker == tracker, ExportTask.due_at <= db_now(), free)


def reschedule(session: Session, tracking_id: str, owner: str, wait_s: float, *, keep: bool, lease_s: float) -> None:
    """Record a success, and set the time of the next delivery. `keep`: this deliverer keeps the lease."""
    lease: dict[str, object] = {"lease_until": db_now() + lease_s} if keep else {"owner": None, "lease_until": None}
    _write(session, tracking_id, owner, due_at=db_now() + wait_s, failures=0, **lease)


def record_failure(session: Session, tracking: ExportTask, owner: str) -> None:
    """Record a failure, and release the task until its back-off has passed."""
    wait_s = BACK_OFF_S[min(tracking.failures, len(BACK_OFF_S) - 1)]
    _write(
        session,
        tracking.id,
        owner,
        due_at=db_now() + wait_s,
        failures=tracking.failures + 1,
        owner=None,
        lease_until=None,
    )


def finish(session: Session, tracking_id: str, owner: str) -> None:
    _write(session, tracking_id, owner, due_at=None, owner=None, lease_until=None)


def set_url(session: Session, tracking_id: str, owner: str, url: str) -> None:
    _write(session, tracking_id, owner, url=url)


def has_passed(session: Session, moment: float) -> bool:
    """Return whether the moment has passed by the database's clock."""
    return bool(session.scalar(select(db_now() > moment)))


def release(session: Session, tracker: str, owner: str) -> None:
    """Release this deliverer's leases."""
    session.execute(
        update(ExportTask)
        .where(ExportTask.tracker == tracker, ExportTask.owner == owner)
        .values(owner=None, lease_until=None)
    )


def shorten(session: Session, *, idle_s: float, lease_s: float, push_s: float) -> None:
    """Shorten the waits and leases that end later than any can, because the database's clock was set back.

    `idle_s`: the longest wait after a success. `lease_s`, `push_s`: the leases of a tracker's run and of a push.
    """
    waits = dict(enumerate((float(idle_s), *BACK_OFF_S)))
    wait_s = case(waits, value=ExportTask.failures, else_=float(BACK_OFF_S[-1]))
    longest_lease_s = case((ExportTask.tracker == HUB, float(push_s)), else_=float(lease_s))
    for column, longest_s in ((ExportTask.due_at, wait_s), (ExportTask.lease_until, longest_lease_s)):
        latest = db_now() + longest_s
        # Every unfinished task has a `due_at`, whose index finds these few among all that are kept.
        late = (ExportTask.due_at > 0, column > latest)
        session.execute(update(ExportTask).where(*late).values({column: latest}))


def _write(session: Session, tracking_id: str, at_owner: str, **values: object) -> None:
    """Update the task if this deliverer still holds it.

    Otherwise nothing is written: the deliverer that holds the task now will write the same later.
    """
    session.execute(
        update(ExportTask).where(ExportTask.id == tracking_id, ExportTask.owner == at_owner).values(**values)
    )
