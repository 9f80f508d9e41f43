"""Jobs, and `transition`, the only function that changes a job's status.

A worker owns a job while its lease lasts. Every claim increases the job's fence, and every write of the attempt
requires the fence of its claim: a worker that lost its job changes nothing (`StaleFence`).
"""

from collections.abc import Iterator, Sequence
from typing import cast

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    String,
    bindparam,
    func,
    or_,
    select,
    text,
    union,
    update,
)
from sqlalchemy.orm import Mapped, Session, aliased, mapped_column

from api.estimate.stored import StoredEstimate
from api.records import dependencies, events, job_metadata, webhook_deliveries
from api.records.base import Base, UnixTime, changed_rows, db_now
from api.records.pages import Listing, Page, paginate
from api.spec.artifacts import SavedState
from api.spec.fields import JsonObject
from api.spec.job import JobError, JobProgress, StoredRecipe
from api.spec.job_filters import EVERY_JOB, JobFilters
from api.spec.lifecycle import FAILURES, FINAL, TRANSITIONS, UNFINISHED, FailureReason, JobStatus

_WITH_STATE = text("state IS NOT NULL")


class Job(Base):
    __tablename__ = "jobs"
    __table_args__ = (
        # A list reads it, and a search for a part of a name reads nothing else until it finds one.
        Index("ix_jobs_names", "project_id", "created_at", "id", "base_model", "parent_model", "model_id"),
        *(
            Index(f"ix_jobs_project_id_{name}_created_at", "project_id", name, "created_at")
            for name in ("status", "method", "base_model", "parent_model")
        ),
        # Few jobs have a saved state, and workers look for them every few seconds.
        Index("ix_jobs_with_state", "status", sqlite_where=_WITH_STATE, postgresql_where=_WITH_STATE),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    key_id: Mapped[str | None] = mapped_column(String(64))
    """Id of the API key that created the job; None for jobs of older releases."""
    status: Mapped[str] = mapped_column(String(20), index=True)
    created_at: Mapped[float] = mapped_column(UnixTime)
    started_at: Mapped[float | None] = mapped_column(UnixTime, index=True)
    """Time at which the job first began to train."""
    finished_at: Mapped[float | None] = mapped_column(UnixTime)

    recipe: Mapped[StoredRecipe]
    resolved: Mapped[JsonObject | None]
    """The recipe with every "auto" resolved (api.spec.resolve.ResolvedRecipe)."""
    method: Mapped[str] = mapped_column(String(32))
    """The type of the recipe's method."""
    base_model: Mapped[str] = mapped_column(String(128), index=True)
    """The operator's base model at the root of the job's lineage. The job uses its facts and its tokenizer."""
    parent_model: Mapped[str | None] = mapped_column(String(256), index=True)
    """The fine-tuned model or checkpoint that this job continues."""
    base_weights: Mapped[str | None] = mapped_column(String(256), index=True)
    """The fully fine-tuned model or checkpoint whose weights replace those of `base_model`."""
    pipeline_id: Mapped[str | None] = mapped_column(String(64), index=True)
    pipeline_stage: Mapped[str | None] = mapped_column(String(64))
    """Name of this job's stage in the pipeline."""
    training_file: Mapped[str] = mapped_column(String(64), index=True)
    validation_file: Mapped[str | None] = mapped_column(String(64), index=True)
    seed: Mapped[int] = mapped_column(Integer)
    priority: Mapped[int] = mapped_column(Integer, default=0)
    gpus: Mapped[int] = mapped_column(Integer, default=0)
    work: Mapped[float | None] = mapped_column(Double)
    """Estimated floating-point operations of the training. They are the project's usage (api.records.job_queue)."""

    expected_s: Mapped[float | None] = mapped_column(Double)
    """Predicted seconds of the training on the fastest known worker; set by the preparation."""

    model_id: Mapped[str] = mapped_column(String(256))
    """Id of the model that the job will publish."""
    fine_tuned_model: Mapped[str | None] = mapped_column(String(256))
    result_files: Mapped[list[str]] = mapped_column(default=list)
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    estimated_finish: Mapped[float | None] = mapped_column(UnixTime)
    progress: Mapped[JobProgress] = mapped_column(default=dict)
    error: Mapped[JobError | None]
    arrays: Mapped[dict[str, str]] = mapped_column(default=dict)
    """{"train": key, "validation": key}: the keys of the job's arrays in api.records.arrays."""
    estimate: Mapped[StoredEstimate | None]
    """Memory and time of the training: the prediction, and after the training also the measurement."""
    evaluation: Mapped[JsonObject | None]
    """An api.spec.evaluation.Evaluation; None until the job has succeeded."""
    eval_runs: Mapped[list[JsonObject] | None] = mapped_column(JSON(none_as_null=True))
    """Runs of the evals in the recipe, as [{"eval_id", "run_id", "model"}]; None until the job has succeeded."""

    owner: Mapped[str | None] = mapped_column(String(128))
    fence: Mapped[int] = mapped_column(Integer, default=0)
    lease_until: Mapped[float | None] = mapped_column(UnixTime)
    run_after: Mapped[float | None] = mapped_column(UnixTime)
    """Earliest time of the next attempt, after the back-off of a fault."""
    rung_at: Mapped[float | None] = mapped_column(UnixTime)
    """Time of the last notification of workers about this waiting job."""
    pause_requested: Mapped[bool] = mapped_column(default=False)
    faults: Mapped[JsonObject] = mapped_column(default=dict)
    """Faults since the job last made progress (api.records.faults): the number of ended attempts for each
    FailureReason, and under `excused` the number of faults that the job did not cause. `reached` is the step of the
    saved state since which these are counted, -1 during preparation. `died_at_step` and `deaths` are the step at which
    the trainer died, and how often in a row. `avoid` is the worker that the next attempt avoids."""
    state: Mapped[SavedState | None]
    """The last valid saved state: {step, prefix, before: the previous state}. Set once all files of the state are
    stored."""


LISTING = Listing(Job.project_id, Job.id, (Job.created_at, Job.id))
TUNED = "ft:"
"""Begin of the ids of fine-tuned models. No base model has such a name."""


class StaleFence(Exception):
    """The attempt lost its job: another attempt claimed the job, or its status changed, such as to cancelled. The
    attempt's results are dropped."""


def get(session: Session, project_id: str, job_id: str) -> Job | None:
    return session.scalars(_BY_ID, {"job_id": job_id, "project": project_id}).one_or_none()


def read(connection: Connection, project_id: str, job_id: str) -> Job | None:
    """Return the job's columns, to be read only. This takes half as long as `get`, which makes an ORM object."""
    row = connection.execute(_COLUMNS_BY_ID, {"job_id": job_id, "project": project_id}).one_or_none()
    return cast("Job | None", row)


_OWN = (Job.id == bindparam("job_id"), Job.project_id == bindparam("project"))
_BY_ID, _COLUMNS_BY_ID, _ID = (select(found).where(*_OWN) for found in (Job, Job.__table__, Job.id))
"""Most requests run one of these. They are built once: building a statement takes longer than running it."""


def exists(session: Session, project_id: str, job_id: str) -> bool:
    """Return whether the project has this job, without reading the whole row."""
    return session.scalar(_ID, {"job_id": job_id, "project": project_id}) is not None


def with_ids(session: Session, project_id: str, job_ids: Sequence[str]) -> Sequence[Job]:
    return session.scalars(select(Job).where(Job.project_id == project_id, Job.id.in_(job_ids))).all()


def page(
    session: Session, project_id: str, filters: JobFilters = EVERY_JOB, *, after: str | None, limit: int
) -> Page[Job]:
    """Return a page of the project's jobs that pass all filters, newest first."""
    query, order, names = select(Job), None, Job
    if filters.metadata is not None:
        query, order = job_metadata.only_with(query, Job.id, project_id, filters.metadata), job_metadata.ORDER
    elif filters.search is not None:
        names = aliased(Job)  # the index alone: whole rows are much larger
        query, order = query.join(names, names.id == Job.id), (names.created_at, names.id)
    query = query.where(names.project_id == project_id, *_conditions(filters, names))
    start = None if filters.created_before is None else (float(filters.created_before), "")
    return paginate(session, LISTING, project_id, query, order=order, after=after, limit=limit, start=start)


def _conditions(filters: JobFilters, names: type[Job]) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions of the filters on the table of jobs. `names`: the same rows, for columns of the index."""
    if filters.status is not None:
        yield Job.status == filters.status
    if filters.method is not None:
        yield Job.method == filters.method
    if filters.model is not None:
        column = Job.parent_model if filters.model.startswith(TUNED) else Job.base_model
        yield column == filters.model
    if filters.search is not None:
        searched = (names.id, names.base_model, names.parent_model, names.model_id)
        yield or_(*(name.icontains(filters.search, autoescape=True) for name in searched))
    if filters.created_after is not None:
        yield names.created_at >= filters.created_after


def active_count(session: Session, project_id: str) -> int:
    """Return the number of the project's unfinished jobs."""
    return (
        session.scalar(
            select(func.count()).select_from(Job).where(Job.project_id == project_id, Job.status.in_(UNFINISHED))
        )
        or 0
    )


def count_since(session: Session, project_id: str, within_s: float) -> int:
    """Return the number of the project's jobs that were created in the last `within_s` seconds."""
    query = select(func.count()).select_from(Job)
    return session.scalar(query.where(Job.project_id == project_id, Job.created_at > db_now() - within_s)) or 0


def using_file(session: Session, project_id: str, file_id: str) -> Sequence[str]:
    """Return the ids of unfinished jobs that read this file."""
    return session.scalars(
        select(Job.id).where(
            Job.project_id == project_id,
            or_(Job.training_file == file_id, Job.validation_file == file_id),
            Job.status.in_(UNFINISHED),
        )
    ).all()


def arrays_in_use(session: Session) -> set[str]:
    """Return the keys of the arrays that unfinished jobs need."""
    needed = session.scalars(select(Job.arrays).where(Job.status.in_(UNFINISHED)))
    return {key for arrays in needed for key in arrays.values()}


def using_base(session: Session, base_model: str) -> Sequence[str]:
    """Return the ids of unfinished jobs that train this base model."""
    return session.scalars(select(Job.id).where(Job.base_model == base_model, Job.status.in_(UNFINISHED))).all()


def lock(session: Session, job_id: str, project_id: str | None = None) -> Job | None:
    """Return the job's current row, locked until this transaction ends. Workers leave out `project_id`, which the API
    uses to find only jobs of the caller's project."""
    query = select(Job).where(Job.id == job_id)
    if project_id is not None:
        query = query.where(Job.project_id == project_id)
    return session.scalars(query.with_for_update().execution_options(populate_existing=True)).one_or_none()


def lock_for_attempt(session: Session, job_id: str, fence: int) -> Job:
    """Return the job, locked, for the attempt that holds this fence. Raises StaleFence if the attempt lost the job."""
    job = lock(session, job_id)
    if job is None or job.fence != fence:
        raise StaleFence(job_id)
    return job


def should_pause(session: Session, job_id: str, fence: int) -> bool:
    """Return whether the attempt that holds this fence should pause. Raises StaleFence if it lost the job."""
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
    **values: object,
) -> None:
    """Change a job's status if its current status allows that, and write an event in the same transaction.

    With `fence`, the change requires that the job still has this fence. Every change increases the fence: the previous
    owner loses the job, even if its heartbeat is in flight. `values`: other columns to set. Raises StaleFence if the
    status or the fence does not match.

    The same transaction covers the jobs that depend on this one. If this job succeeded, workers are notified of them;
    if it failed or was cancelled, they fail.
    """
    _change(session, job_id, to, message=message, level=level, fence=fence, **values)
    if to is JobStatus.SUCCEEDED:
        waiting = dependencies.direct_dependents(session, [job_id])
        session.execute(update(Job).where(Job.id.in_(waiting)).values(rung_at=None))
    elif to in FINAL:
        _fail_dependents(session, job_id)


def _change(
    session: Session, job_id: str, to: JobStatus, *, message: str, level: str, fence: int | None, **values: object
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
    _require_one(changed_rows(session.execute(statement.values(status=to, **values))), job_id)
    events.add_event(session, job_id, message, level=level)
    if to in FINAL:
        webhook_deliveries.enqueue(
            session,
            session.scalars(select(Job.project_id).where(Job.id == job_id)).one(),
            job_id,
            f"fine_tuning.job.{to}",
        )


def _fail_dependents(session: Session, job_id: str) -> None:
    dependents = dependencies.all_dependents(session, job_id)
    if not dependents:
        return
    ended = session.get_one(Job, job_id, populate_existing=True)
    outcome = "was cancelled"
    if ended.status == JobStatus.FAILED and ended.error is not None:
        outcome = f"failed: {ended.error['message']}"
    message = f"The stage '{ended.pipeline_stage}', which this one needs, {outcome}"
    error: JobError = {"code": FAILURES[FailureReason.DEPENDENCY].code, "message": message, "param": None}
    # Everything that locks several stages does so in the order of their creation, which prevents deadlocks.
    for dependent in session.scalars(select(Job.id).where(Job.id.in_(dependents)).order_by(Job.created_at, Job.id)):
        job = lock(session, dependent)
        if job is not None and job.status not in FINAL:
            _change(session, dependent, JobStatus.FAILED, message=message, level="error", fence=None, error=error)


def update_fenced(session: Session, job_id: str, at_fence: int, **values: object) -> None:
    """Set columns other than the status, for the attempt that holds this fence. Raises StaleFence if it lost the
    job."""
    statement = update(Job).where(Job.id == job_id, Job.fence == at_fence).values(**values)
    _require_one(changed_rows(session.execute(statement)), job_id)


def _require_one(changed: int, job_id: str) -> None:
    if changed != 1:
        raise StaleFence(job_id)


def advance_state(session: Session, job_id: str, at_fence: int, state: SavedState) -> str | None:
    """Set the job's newest saved state, and keep the previous one. Return the prefix of the state before the previous
    one, which is no longer used; None if there is no such state.

    Raises StaleFence if the attempt lost the job.
    """
    last: SavedState | None = session.scalars(select(Job.state).where(Job.id == job_id)).one()
    if last is not None and last["prefix"] == state["prefix"]:
        return None
    before = None if last is None else SavedState(step=last["step"], prefix=last["prefix"])
    update_fenced(session, job_id, at_fence, state={**state, "before": before})
    unused = None if last is None else last.get("before")
    return None if unused is None else unused["prefix"]


def ended_with_state(session: Session, limit: int = 20) -> Sequence[str]:
    """Return the ids of ended jobs whose saved states are still stored, chosen at random."""
    with_state = select(Job.id).where(Job.status.in_(FINAL), Job.state.is_not(None))
    return session.scalars(with_state.order_by(func.random()).limit(limit)).all()


def ended_with_events(session: Session, keep_s: float, limit: int = 100) -> Sequence[str]:
    """Return the ids of jobs that ended more than `keep_s` seconds ago and still have events."""
    has_events = select(events.Event.seq).where(events.Event.job_id == Job.id).exists()
    return session.scalars(select(Job.id).where(Job.finished_at < db_now() - keep_s, has_events).limit(limit)).all()


def clear_state(session: Session, job_id: str) -> None:
    session.execute(update(Job).where(Job.id == job_id).values(state=None))


def usage(session: Session, since_s: float) -> dict[str, float]:
    """Return {project: total work (`Job.work`) of its jobs that started in the last `since_s` seconds or still run}."""
    of_jobs = select(Job.id, Job.project_id, func.coalesce(Job.work, 0.0).label("work"))
    # As a union, each half reads an index. For an "or", SQLite reads every job, in the order of the projects.
    recent = union(
        of_jobs.where(Job.started_at > db_now() - since_s), of_jobs.where(Job.status == JobStatus.RUNNING)
    ).subquery()
    rows = session.execute(select(recent.c.project_id, func.sum(recent.c.work)).group_by(recent.c.project_id))
    return {project: float(work) for project, work in rows}


def created_since(session: Session, project_id: str, training_file: str, within_s: float) -> Sequence[Job]:
    """Return the project's jobs on this file that were created in the last `within_s` seconds, newest first."""
    query = select(Job).where(
        Job.project_id == project_id, Job.training_file == training_file, Job.created_at > db_now() - within_s
    )
    return session.scalars(query.order_by(Job.created_at.desc())).all()
