"""Trackings: which job's metrics are to be sent to which tracker, what it made to which hub, and who is at it.

A row is a task, not a log: what a tracker already holds is asked of the tracker itself, so that nothing is sent twice
and nothing is missed, whoever sends it and whatever happened to the one before.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ForeignKey, Integer, String, Text, or_, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, UnixTime, db_now

HUB = "hub"
"""What the model itself is sent to, as another tracker."""
BACK_OFF_S = (10, 30, 60, 120, 300, 900, 3600)
"""After the first, second, … failure in a row; the last one again and again."""


class ExportTask(Base):
    __tablename__ = "trackings"

    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    """{job}:{tracker}:{number}"""
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    tracker: Mapped[str] = mapped_column(String(16))
    number: Mapped[int] = mapped_column(Integer)
    """Of several that one job sends to the same tracker."""
    options: Mapped[dict[str, Any] | None]
    """What the job said of it (api.spec.outputs.Wandb, api.spec.outputs.Hub)."""
    created_at: Mapped[float] = mapped_column(UnixTime)
    due_at: Mapped[float | None] = mapped_column(UnixTime, index=True)
    """When it is looked at next; None before the job runs, and once all is sent, or given up."""
    owner: Mapped[str | None] = mapped_column(String(128))
    """The deliverer that has it open."""
    lease_until: Mapped[float | None] = mapped_column(UnixTime)
    failures: Mapped[int] = mapped_column(Integer, default=0)
    """In a row, of the newest attempts to send."""
    url: Mapped[str | None] = mapped_column(Text)
    """Where a person can look at it, once that is known."""


def plan(
    session: Session,
    job_id: str,
    tracker: str,
    number: int = 0,
    options: dict[str, Any] | None = None,
    *,
    at_once: bool = False,
) -> None:
    """Something of this job is to be sent there: from when it runs, or at once."""
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


def begin(session: Session, job_id: str) -> None:
    """The job runs, perhaps not for the first time: what was planned is due."""
    session.execute(
        update(ExportTask).where(ExportTask.job_id == job_id, ExportTask.due_at.is_(None)).values(due_at=db_now())
    )


def due(session: Session, tracker: str, owner: str) -> Sequence[str]:
    """Ids of those that this deliverer may look at now; the one that has waited longest first."""
    return session.scalars(select(ExportTask.id).where(*_due(tracker, owner)).order_by(ExportTask.due_at)).all()


def lease(session: Session, tracking_id: str, tracker: str, owner: str, lease_s: float) -> ExportTask | None:
    """This one for this deliverer alone until the lease runs out, unless another was faster."""
    tracking = session.scalars(
        select(ExportTask).where(ExportTask.id == tracking_id, *_due(tracker, owner)).with_for_update(skip_locked=True)
    ).one_or_none()
    if tracking is None:
        return None
    tracking.owner, tracking.lease_until = owner, db_now() + lease_s
    session.flush()
    session.refresh(tracking)
    return tracking


def _due(tracker: str, owner: str) -> tuple[Any, ...]:
    free = or_(ExportTask.owner.is_(None), ExportTask.owner == owner, ExportTask.lease_until < db_now())
    return (ExportTask.tracker == tracker, ExportTask.due_at <= db_now(), free)


def reschedule(session: Session, tracking_id: str, owner: str, wait_s: float, *, keep: bool, lease_s: float) -> None:
    """All is sent that there was. keep: this deliverer stays at it."""
    lease: dict[str, Any] = {"lease_until": db_now() + lease_s} if keep else {"owner": None, "lease_until": None}
    _write(session, tracking_id, owner, due_at=db_now() + wait_s, failures=0, **lease)


def failed(session: Session, tracking: ExportTask, owner: str) -> None:
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


def end(session: Session, tracking_id: str, owner: str) -> None:
    _write(session, tracking_id, owner, due_at=None, owner=None, lease_until=None)


def tell_url(session: Session, tracking_id: str, owner: str, url: str) -> None:
    _write(session, tracking_id, owner, url=url)


def is_past(session: Session, moment: float) -> bool:
    """By the database's clock."""
    return bool(session.scalar(select(db_now() > moment)))


def release(session: Session, tracker: str, owner: str) -> None:
    """What this deliverer had open is anybody's."""
    session.execute(
        update(ExportTask)
        .where(ExportTask.tracker == tracker, ExportTask.owner == owner)
        .values(owner=None, lease_until=None)
    )


def _write(session: Session, tracking_id: str, at_owner: str, **values: Any) -> None:
    """Unless another has taken it over meanwhile, who will then do the same."""
    session.execute(
        update(ExportTask).where(ExportTask.id == tracking_id, ExportTask.owner == at_owner).values(**values)
    )
