"""Jobs: the row that is the truth about one, and the only door through which its status changes.

A worker owns a job while its lease lasts. Every claim raises the fence, and every later write of that attempt names
the fence that it got: what a worker writes after it lost the job changes nothing (`Stale`).
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    CursorResult,
    Double,
    ForeignKey,
    Index,
    Integer,
    String,
    case,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records import dependencies, events, webhooks
from api.records.base import Base, UnixTime, db_now
from api.records.pages import Page, paginate
from api.spec.lifecycle import FAILURES, FINAL, TRANSITIONS, FailureReason, JobStatus


class Job(Base):
    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_project_id_created_at", "project_id", "created_at"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    status: Mapped[str] = mapped_column(String(20), index=True)
    created_at: Mapped[float] = mapped_column(UnixTime)
    started_at: Mapped[float | None] = mapped_column(UnixTime)
    """When it first began to train."""
    finished_at: Mapped[float | None] = mapped_column(UnixTime)

    recipe: Mapped[dict[str, Any]]
    """As it was asked for (api.spec.recipe.Recipe)."""
    resolved: Mapped[dict[str, Any] | None]
    """With every "auto" resolved (api.spec.resolve.ResolvedRecipe)."""
    base_model: Mapped[str] = mapped_column(String(128), index=True)
    """The operator's base model that all began from: its facts and its tokenizer are this job's, too."""
    parent_model: Mapped[str | None] = mapped_column(String(256), index=True)
    """The fine-tuned model, or checkpoint of one, that this job continues."""
    base_weights: Mapped[str | None] = mapped_column(String(256), index=True)
    """The fully fine-tuned model, or checkpoint of one, whose weights stand in for those of `base_model`."""
    pipeline_id: Mapped[str | None] = mapped_column(String(64), index=True)
    pipeline_stage: Mapped[str | None] = mapped_column(String(64))
    """The name that the pipeline has for this job."""
    training_file: Mapped[str] = mapped_column(String(64), index=True)
    validation_file: Mapped[str | None] = mapped_column(String(64), index=True)
    seed: Mapped[int] = mapped_column(Integer)
    priority: Mapped[int] = mapped_column(Integer, default=0)
    gpus: Mapped[int] = mapped_column(Integer, default=0)
    work: Mapped[float | None] = mapped_column(Double)
    """Floating-point operations that its training takes, by the usual estimate; what fairness counts."""

    model_id: Mapped[str] = mapped_column(String(256))
    """The name that its model will have."""
    fine_tuned_model: Mapped[str | None] = mapped_column(String(256))
    result_files: Mapped[list[str]] = mapped_column(default=list)
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    estimated_finish: Mapped[float | None] = mapped_column(UnixTime)
    progress: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """{step, total_steps, phase}"""
    error: Mapped[dict[str, Any] | None]
    arrays: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """{train: key, validation: key} of api.records.arrays."""
    estimate: Mapped[dict[str, Any] | None]
    """{rows, predicted, actual}: what was predicted before training, and then happened (api.estimate)."""
    evaluation: Mapped[dict[str, Any] | None]
    """api.spec.evaluation, once it has succeeded."""

    owner: Mapped[str | None] = mapped_column(String(128))
    fence: Mapped[int] = mapped_column(Integer, default=0)
    lease_until: Mapped[float | None] = mapped_column(UnixTime)
    run_after: Mapped[float | None] = mapped_column(UnixTime)
    """Not before this time: the back-off after a fault."""
    rung_at: Mapped[float | None] = mapped_column(UnixTime)
    pause_requested: Mapped[bool] = mapped_column(default=False)
    faults: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """How often each FailureReason ended an attempt since the state of step `reached` was stored (-1: while the rows
    were prepared), `excused` how often none of the job's doing; how often its trainer died at which step."""
    state: Mapped[dict[str, Any] | None]
    """The last good state: {step, prefix, before: the one before it}. Moved under the fence, once it is all stored."""


class StaleFence(Exception):
    """The attempt lost its job: another claimed it, or it was cancelled. Whatever it has must be dropped."""


def get(session: Session, project_id: str, job_id: str) -> Job | None:
    return session.scalars(select(Job).where(Job.id == job_id, Job.project_id == project_id)).one_or_none()


def with_ids(session: Session, project_id: str, job_ids: Sequence[str]) -> Sequence[Job]:
    return session.scalars(select(Job).where(Job.project_id == project_id, Job.id.in_(job_ids))).all()


def page(
    session: Session,
    project_id: str,
    *,
    metadata: dict[str, str] | None = None,
    after: str | None,
    limit: int,
) -> Page[Job]:
    """Newest first. `metadata`: only jobs with all these pairs; empty: only jobs without any."""
    query = select(Job).where(Job.project_id == project_id)
    for key, value in (metadata or {}).items():
        query = query.where(Job.recipe["metadata"][key].as_string() == value)
    if metadata == {}:
        query = query.where(func.coalesce(Job.recipe["metadata"].as_string(), "{}").in_(["{}", "null"]))
    return paginate(
        session,
        query,
        order=(Job.created_at, Job.id),
        id_column=Job.id,
        after=after,
        limit=limit,
    )


def active_count(session: Session, project_id: str) -> int:
    return (
        session.scalar(
            select(func.count()).select_from(Job).where(Job.project_id == project_id, Job.status.not_in(FINAL))
        )
        or 0
    )


def using_file(session: Session, project_id: str, file_id: str) -> Sequence[str]:
    """Ids of the jobs that have not ended and read this file."""
    return session.scalars(
        select(Job.id).where(
            Job.project_id == project_id,
            or_(Job.training_file == file_id, Job.validation_file == file_id),
            Job.status.not_in(FINAL),
        )
    ).all()


def using_base(session: Session, base_model: str) -> Sequence[str]:
    """Ids of the jobs that have not ended and train this base model."""
    return session.scalars(select(Job.id).where(Job.base_model == base_model, Job.status.not_in(FINAL))).all()


def lock(session: Session, job_id: str, project_id: str | None = None) -> Job | None:
    """The job as it is now, and unchanged by others until this transaction ends. Workers need name no project."""
    query = select(Job).where(Job.id == job_id)
    if project_id is not None:
        query = query.where(Job.project_id == project_id)
    return session.scalars(query.with_for_update().execution_options(populate_existing=True)).one_or_none()


def lock_for_attempt(session: Session, job_id: str, fence: int) -> Job:
    """The job, locked, for the attempt that holds this fence. Raises Stale."""
    job = lock(session, job_id)
    if job is None or job.fence != fence:
        raise StaleFence(job_id)
    return job


def pause_is_wanted(session: Session, job_id: str, fence: int) -> bool:
    """What the attempt that holds this fence should know. Raises Stale when it holds it no more."""
    row = session.execute(select(Job.fence, Job.pause_requested).where(Job.id == job_id)).one_or_none()
    if row is None or row.fence != fence:
        raise StaleFence(job_id)
    return bool(row.pause_requested)


def transition(
    session: Session,
    job_id: str,
    to: JobStatus,
    *,
    message: str,
    level: str = "info",
    fence: int | None = None,
    **values: Any,
) -> None:
    """Change a job's status, if its present one allows that, and say so in the same transaction.

    With `fence`, only for the attempt that holds it. Every change raises the fence: whoever held the job before holds
    it no more, not even with a heartbeat that was under way. Raises Stale if the job is not there to be moved.

    The jobs that need this one follow in the same transaction: they are rung for once it has succeeded, and fail with
    it otherwise.
    """
    _change(session, job_id, to, message=message, level=level, fence=fence, **values)
    if to is JobStatus.SUCCEEDED:
        waiting = dependencies.direct(session, [job_id])
        session.execute(update(Job).where(Job.id.in_(waiting)).values(rung_at=None))
    elif to in FINAL:
        _fail_dependants(session, job_id)


def _change(
    session: Session, job_id: str, to: JobStatus, *, message: str, level: str, fence: int | None, **values: Any
) -> None:
    sources = [status for status, following in TRANSITIONS.items() if to in following]
    statement = update(Job).where(Job.id == job_id, Job.status.in_(sources))
    if fence is not None:
        statement = statement.where(Job.fence == fence)
    values["fence"] = Job.fence + 1
    if to is not JobStatus.RUNNING:
        values |= {"owner": None, "lease_until": None, "estimated_finish": None, "pause_requested": False}
    if to in FINAL:
        values["finished_at"] = db_now()
    _changed_one(session.execute(statement.values(status=to, **values)), job_id)
    events.add_event(session, job_id, message, level=level)
    if to in FINAL:
        webhooks.enqueue_deliveries(
            session, session.scalars(select(Job.project_id).where(Job.id == job_id)).one(), job_id, to
        )


def _fail_dependants(session: Session, job_id: str) -> None:
    dependants = dependencies.transitive(session, job_id)
    if not dependants:
        return
    gone = session.get_one(Job, job_id, populate_existing=True)
    ended = "was cancelled" if gone.status == JobStatus.CANCELLED else f"failed: {(gone.error or {}).get('message')}"
    message = f"The stage '{gone.pipeline_stage}', which this one needs, {ended}"
    error = {"code": FAILURES[FailureReason.DEPENDENCY].code, "message": message, "param": None}
    # In the order in which they were made, as whoever locks several stages does: so nobody waits in a circle.
    for dependant in session.scalars(select(Job.id).where(Job.id.in_(dependants)).order_by(Job.created_at, Job.id)):
        job = lock(session, dependant)
        if job is not None and job.status not in FINAL:
            _change(session, dependant, JobStatus.FAILED, message=message, level="error", fence=None, error=error)


def update_fenced(session: Session, job_id: str, at_fence: int, **values: Any) -> None:
    """Set columns other than the status, as the attempt that holds this fence. Raises Stale."""
    _changed_one(session.execute(update(Job).where(Job.id == job_id, Job.fence == at_fence).values(**values)), job_id)


def _changed_one(result: Any, job_id: str) -> None:
    assert isinstance(result, CursorResult), result
    if result.rowcount != 1:
        raise StaleFence(job_id)


def move_state(session: Session, job_id: str, at_fence: int, state: dict[str, Any]) -> str | None:
    """Point the job to a newer state {step, prefix}, and keep the one before. Returns the prefix that falls out of use.

    Raises Stale.
    """
    last: dict[str, Any] | None = session.scalars(select(Job.state).where(Job.id == job_id)).one()
    if last is not None and last["prefix"] == state["prefix"]:
        return None
    before = None if last is None else {"step": last["step"], "prefix": last["prefix"]}
    update_fenced(session, job_id, at_fence, state={**state, "before": before})
    unused: str | None = last["before"]["prefix"] if last is not None and last.get("before") else None
    return unused


def ended_with_state(session: Session, limit: int = 20) -> Sequence[str]:
    """Ids of ended jobs whose saved states are still stored."""
    return session.scalars(select(Job.id).where(Job.status.in_(FINAL), Job.state.is_not(None)).limit(limit)).all()


def forget_state(session: Session, job_id: str) -> None:
    session.execute(update(Job).where(Job.id == job_id).values(state=None))


def usage(session: Session, since_s: float) -> dict[str, float]:
    """Work that each project's jobs began in the last `since_s` seconds, those that still run included."""
    rows = session.execute(
        select(Job.project_id, func.sum(case((Job.work.is_(None), 0.0), else_=Job.work)))
        .where(or_(Job.started_at > db_now() - since_s, Job.status == JobStatus.RUNNING))
        .group_by(Job.project_id)
    )
    return {project: float(work) for project, work in rows}


def jobs_since(session: Session, project_id: str, training_file: str, within_s: float) -> Sequence[Job]:
    """The project's jobs of the last `within_s` seconds on this file, newest first."""
    query = select(Job).where(
        Job.project_id == project_id, Job.training_file == training_file, Job.created_at > db_now() - within_s
    )
    return session.scalars(query.order_by(Job.created_at.desc())).all()
