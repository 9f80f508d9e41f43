"""The queue of jobs, read from their table: claims, leases, and the notification of workers of waiting jobs.

docs/internals/queue.md explains leases and fences.

Fairness: the next job to train comes from the project with the least usage; within a project, priority decides, then
age. Usage is the work (floating-point operations, estimated before training) of the jobs that the project started in
the last day, so that projects with equal jobs take turns. Seconds would not do as a measure: they are known only
afterwards, and vary with the machine. Preparation is short: for it, projects take turns whatever their usage
(api.records.turns).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, and_, case, func, or_, select, text, update
from sqlalchemy.orm import Mapped, Session, aliased, mapped_column
from sqlalchemy.sql.elements import ColumnElement

from api.records import events, jobs, turns, usage, workers
from api.records.base import Base, UnixTime, db_now, is_sqlite
from api.records.dependencies import Dependency
from api.records.jobs import Job
from api.records.usage import UNKNOWN_KEY, Account
from api.spec.lifecycle import FINAL, JobStatus, Stage

USAGE_WINDOW_S = 24 * 3600
RINGS_AT_ONCE = 4
_CLAIM_LOCK = 0x41747475  # an arbitrary number that all workers share
_MAY_BE_HELD = Job.status.in_([stage.leased for stage in Stage])
"""Whether the job's status is one in which a worker may hold the job."""


_OPEN = text("ended_at IS NULL")


class Attempt(Base):
    """One claim of one job. The attempts are the history of how often and where a job ran."""

    __tablename__ = "attempts"
    # Few attempts are open, and workers look for them every few seconds.
    __table_args__ = (Index("ix_attempts_open", "job_id", sqlite_where=_OPEN, postgresql_where=_OPEN),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    fence: Mapped[int] = mapped_column(Integer, primary_key=True)
    stage: Mapped[str] = mapped_column(String(16))
    owner: Mapped[str] = mapped_column(String(128))
    started_at: Mapped[float] = mapped_column(UnixTime)
    ended_at: Mapped[float | None] = mapped_column(UnixTime)
    outcome: Mapped[str | None] = mapped_column(String(32))
    log_bytes: Mapped[int | None] = mapped_column(Integer)
    """Size of the attempt's stored log; None if no log is stored."""
    gpus: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """Number of GPUs of the slot that trained; 0 for a preparation."""
    tokens: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """Tokens of the attempt's steps, without the steps that an earlier attempt had reported."""


@dataclass(frozen=True)
class Lease:
    """The lease of a job that a worker holds."""

    job_id: str
    project_id: str
    stage: Stage
    owner: str
    since: float | None
    """Time at which the attempt began."""
    expired: bool
    """Whether the worker failed to renew the lease in time: the worker was lost, or cannot reach the database."""
    estimated_finish: float | None
    guessed: bool
    """Whether `estimated_finish` is a guess (`is_guess`)."""
    gpus: int


@dataclass(frozen=True)
class Claim:
    """The right to work on a job until the lease expires or the fence increases."""

    job_id: str
    project_id: str
    stage: Stage
    fence: int


def claim(session: Session, stage: Stage, *, owner: str, lease_s: float, gpus: int) -> Claim | None:
    """Claim the next job that fits a slot with this number of GPUs. Return None if there is none.

    A lock serializes claims: two concurrent claims could otherwise choose the same project as the one with the least
    usage.
    """
    if not is_sqlite(session):
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _CLAIM_LOCK})
    job = _best(session, stage, owner, gpus)
    if job is None:
        return None
    fence = job.fence + 1
    lease: dict[str, Any] = {"owner": owner, "lease_until": db_now() + lease_s, "run_after": None}
    if stage is Stage.TRAIN:
        jobs.transition(
            session,
            job.id,
            JobStatus.RUNNING,
            message=_started(job),
            started_at=func.coalesce(Job.started_at, db_now()),
            **lease,
        )
    else:
        session.execute(update(Job).where(Job.id == job.id).values(fence=Job.fence + 1, **lease))
        turns.record(session, "prepare", job.project_id)
        if fence == 1:
            files = f"training file: {job.training_file}"
            if job.validation_file:
                files += f" and validation file: {job.validation_file}"
            events.add_event(session, job.id, f"Validating {files}")
    attempt = Attempt(job_id=job.id, fence=fence, stage=stage, owner=owner, started_at=db_now())
    attempt.gpus = gpus if stage is Stage.TRAIN else 0
    session.add(attempt)
    return Claim(job.id, job.project_id, stage, fence)


def _started(job: Job) -> str:
    if job.started_at is None:
        return "Fine-tuning job started"
    return "Fine-tuning job started again" if job.state is None else "Fine-tuning job started again from a saved state"


def is_waiting(stage: Stage) -> ColumnElement[bool]:
    """Return the condition that a slot of this stage could take the job."""
    needed = aliased(Job)
    unmet = (
        select(Dependency.job_id)
        .join(needed, needed.id == Dependency.needs_job_id)
        .where(Dependency.job_id == Job.id, Dependency.stage == stage, needed.status != JobStatus.SUCCEEDED)
    )
    return and_(
        Job.status == stage.waiting,
        Job.owner.is_(None),
        or_(Job.run_after.is_(None), Job.run_after <= db_now()),
        ~unmet.exists(),
    )


def _not_left_to_another(stage: Stage, owner: str) -> ColumnElement[bool]:
    """Return the condition that excludes jobs which failed on this worker and which another worker could take
    (api.records.faults.avoid)."""
    failed_by = func.coalesce(Job.faults[("avoid", "owner")].as_string(), "")
    until = func.coalesce(Job.faults[("avoid", "until")].as_float(), 0.0)
    return or_(failed_by != owner, until <= db_now(), ~workers.another_available(stage, owner, Job.gpus))


def _best(session: Session, stage: Stage, owner: str, gpus: int) -> Job | None:
    ready = and_(is_waiting(stage), Job.gpus <= gpus, _not_left_to_another(stage, owner))
    waiting = select(Job.project_id, func.min(Job.created_at)).where(ready).group_by(Job.project_id)
    oldest = {project: float(created_at) for project, created_at in session.execute(waiting)}
    if not oldest:
        return None
    project = _next_project(session, stage, oldest)
    return session.scalars(
        select(Job)
        .where(ready, Job.project_id == project)
        .order_by(Job.priority.desc(), Job.created_at, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)  # a concurrent cancel or sweep may hold the row
        .execution_options(populate_existing=True)
    ).one_or_none()


def _next_project(session: Session, stage: Stage, oldest: dict[str, float]) -> str | None:
    if stage is Stage.PREPARE:
        return turns.next_project(session, "prepare", oldest, _being_prepared(session))
    usage = jobs.usage(session, USAGE_WINDOW_S)
    return min(oldest, key=lambda project: (usage.get(project, 0.0), oldest[project], project), default=None)


def _being_prepared(session: Session) -> dict[str, int]:
    """Return the number of each project's jobs that are being prepared."""
    leased = and_(Job.status == Stage.PREPARE.leased, Job.owner.is_not(None), Job.lease_until >= db_now())
    rows = session.execute(select(Job.project_id, func.count()).where(leased).group_by(Job.project_id))
    return {project: int(count) for project, count in rows}


def renew(session: Session, claim: Claim, lease_s: float) -> None:
    """Extend the claim's lease. Raises StaleFence if the claim is lost."""
    jobs.update_fenced(session, claim.job_id, claim.fence, lease_until=db_now() + lease_s)


def add_tokens(session: Session, claim: Claim, tokens: int) -> None:
    """Add trained tokens to the attempt's count.

    The caller leaves out steps that an earlier attempt reported, and has checked the fence, that is, that this attempt
    still owns the job.
    """
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == claim.job_id, Attempt.fence == claim.fence)
        .values(tokens=Attempt.tokens + tokens)
    )


def end_attempt(session: Session, claim: Claim, outcome: str) -> None:
    _end(session, claim.job_id, outcome, Attempt.fence == claim.fence)


def end_attempts(session: Session, job_id: str, outcome: str) -> None:
    """End all open attempts of a job, for callers other than the job's worker.

    Call it before the job's transition, which removes the lease: an attempt's time ends with its lease at the latest.
    """
    _end(session, job_id, outcome)


def _end(session: Session, job_id: str, outcome: str, *conditions: ColumnElement[bool]) -> None:
    """End the job's open attempts that meet the conditions, and add their time and tokens to the usage ledger.

    An attempt that has ended already is left alone, so that it is counted once.
    """
    # No time counts after the lease expired, however late the expiry is noticed.
    lease_until = select(Job.lease_until).where(Job.id == job_id).scalar_subquery()
    ended_at = case((lease_until < db_now(), lease_until), else_=db_now())
    ended = session.execute(
        update(Attempt)
        .where(Attempt.job_id == job_id, Attempt.ended_at.is_(None), *conditions)
        .values(ended_at=ended_at, outcome=outcome)
        .returning(Attempt.started_at, Attempt.ended_at, Attempt.gpus, Attempt.tokens)
    ).all()
    if not ended:
        return
    job = session.execute(select(Job.project_id, Job.key_id, Job.recipe["model"].as_string()).where(Job.id == job_id))
    project_id, key_id, model = job.one()
    for attempt in ended:
        seconds = max(0.0, attempt.ended_at - attempt.started_at)
        account = Account(project_id, key_id or UNKNOWN_KEY, model)
        device = {"gpu_seconds": seconds * attempt.gpus} if attempt.gpus else {"cpu_seconds": seconds}
        usage.add(session, account, trained_tokens=attempt.tokens, **device)


def unfinished_usage(session: Session, project_id: str) -> tuple[int, float]:
    """Return the tokens and the device seconds of the project's running attempts, which are not in the usage ledger
    yet."""
    seconds = (db_now() - Attempt.started_at) * case((Attempt.gpus > 0, Attempt.gpus), else_=1)
    query = select(func.coalesce(func.sum(Attempt.tokens), 0), func.coalesce(func.sum(seconds), 0.0))
    query = query.join(Job, Job.id == Attempt.job_id).where(Job.project_id == project_id, _MAY_BE_HELD)
    tokens, total_s = session.execute(query.where(Attempt.ended_at.is_(None))).one()
    return int(tokens), float(total_s)


def end_orphaned_attempts(session: Session) -> None:
    """End the attempts that older releases of Attune left open when the jobs ended."""
    status = select(Job.status).where(Job.id == Attempt.job_id).scalar_subquery()
    session.execute(
        update(Attempt).where(Attempt.ended_at.is_(None), status.in_(FINAL)).values(ended_at=db_now(), outcome="ended")
    )


def log_key(job_id: str, fence: int) -> str:
    """Return the storage key of an attempt's log."""
    return f"logs/{job_id}/{fence}.txt"


def record_log(session: Session, claim: Claim, log_bytes: int) -> None:
    session.execute(
        update(Attempt).where(Attempt.job_id == claim.job_id, Attempt.fence == claim.fence).values(log_bytes=log_bytes)
    )


def attempts_of(session: Session, job_id: str) -> Sequence[Attempt]:
    """Return the job's attempts, oldest first."""
    return session.scalars(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.fence)).all()


def with_expired_logs(session: Session, keep_s: float, limit: int = 20) -> Sequence[str]:
    """Return the ids of jobs that ended more than `keep_s` seconds ago and still have stored logs, chosen at random."""
    has_logs = select(Attempt.job_id).where(Attempt.job_id == Job.id, Attempt.log_bytes.is_not(None)).exists()
    old = select(Job.id).where(Job.finished_at < db_now() - keep_s, has_logs)
    return session.scalars(old.order_by(func.random()).limit(limit)).all()


def clear_logs(session: Session, job_id: str) -> None:
    session.execute(update(Attempt).where(Attempt.job_id == job_id).values(log_bytes=None))


def expired(session: Session) -> Sequence[Job]:
    """Return the jobs whose lease has expired, locked until this transaction ends."""
    return session.scalars(
        select(Job)
        .where(_MAY_BE_HELD, Job.owner.is_not(None), Job.lease_until < db_now())
        .with_for_update(skip_locked=True)
    ).all()


def leases(session: Session) -> list[Lease]:
    """Return the lease of each job that a worker holds."""
    rows = session.execute(
        select(
            Job.id,
            Job.project_id,
            Job.status,
            Job.owner,
            Attempt.started_at,
            Job.lease_until < db_now(),
            Job.estimated_finish,
            Job.estimate[("predicted", "measured")].as_boolean(),
            Job.progress["step"].as_integer(),
            Job.gpus,
        )
        .outerjoin(Attempt, and_(Attempt.job_id == Job.id, Attempt.fence == Job.fence))
        .where(_MAY_BE_HELD, Job.owner.is_not(None))
        .order_by(Job.id)
    )
    return [
        Lease(job_id, project, stage_of(status), owner, since, bool(expired), finish, is_guess(measured, step), gpus)
        for job_id, project, status, owner, since, expired, finish, measured, step, gpus in rows
        if owner is not None
    ]


def is_guess(measured: bool | None, step: int | None) -> bool:
    """Return whether a running job's end is a guess: no step has ended, and its worker's speed was not measured.

    `measured`: the prediction's field, None without a prediction. `step`: the job's progress."""
    return measured is False and not step


def stage_of(status: str) -> Stage:
    """Return the stage of work of a job that a worker holds, by the job's status."""
    return Stage.TRAIN if status == Stage.TRAIN.leased else Stage.PREPARE


def has_waiting(session: Session, stage: Stage) -> bool:
    """Return whether any job waits for a slot of this stage."""
    return session.scalar(select(Job.id).where(is_waiting(stage)).limit(1)) is not None


def ring_due(session: Session, ring_again_s: float) -> Sequence[tuple[str, Stage]]:
    """Return waiting jobs of which to notify workers, and record the time of the notification.

    For each stage these are up to RINGS_AT_ONCE jobs that had no notification yet. If there are none, and the stage had
    no notification in the last `ring_again_s` seconds, they are its oldest waiting jobs. A worker that is notified may
    claim any job, so a thousand waiting jobs need no more notifications than a few.
    """
    due: list[tuple[str, Stage]] = []
    for stage in Stage:
        waiting = select(Job.id).where(is_waiting(stage)).order_by(Job.created_at)
        ids = list(session.scalars(waiting.where(Job.rung_at.is_(None)).limit(RINGS_AT_ONCE)))
        rung_lately = waiting.where(Job.rung_at > db_now() - ring_again_s).limit(1)
        if not ids and session.scalar(rung_lately) is None:
            ids = list(session.scalars(waiting.limit(RINGS_AT_ONCE)))
        due += [(job_id, stage) for job_id in ids]
    session.execute(update(Job).where(Job.id.in_([job_id for job_id, _ in due])).values(rung_at=db_now()))
    return due


def leased_by(session: Session, owner: str) -> Sequence[Job]:
    """Return the jobs that a worker holds, locked. A worker gives them back when it starts: it no longer works on
    them."""
    return session.scalars(select(Job).where(Job.owner == owner, _MAY_BE_HELD).with_for_update()).all()
