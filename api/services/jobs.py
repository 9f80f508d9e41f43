"""Jobs: submit, cancel, pause, resume. worker/supervisor/loop.py runs the jobs."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from api.context import Caller, Context
from api.errors import InvalidRequest, NotFound
from api.records import events, job_queue, jobs, models, projects
from api.records.base import db_now
from api.records.events import Event
from api.records.job_queue import Attempt
from api.records.jobs import Job
from api.records.models import Checkpoint
from api.records.pages import Page
from api.services import layers, lineage, project_limits
from api.services.admission import insert_job
from api.services.models import NoSuchModel
from api.spec.fields import JsonObject
from api.spec.job_filters import EVERY_JOB, JobFilters
from api.spec.lifecycle import FINAL, JobStatus, Stage
from api.spec.recipe import Recipe


class NoSuchJob(NotFound):
    param = "fine_tuning_job_id"
    code = "fine_tune_not_found"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Could not find fine tune: {job_id[:64]}. GET /v1/fine_tuning/jobs lists the jobs")


class WrongState(InvalidRequest):
    """The job's status does not allow the call. The HTTP status is 400, because OpenAI's clients retry a 409."""

    code = "invalid_job_state"


def submit(context: Context, caller: Caller, recipe: Recipe, *, repeated: bool = False) -> Job:
    """Create a job, and notify workers of it after the commit.

    `repeated`: the client marked the request as a retry. It gets the job that the first request created, if there is
    one. Raise InvalidRequest if the job cannot run, TooManyRequests if the project may have no further job.
    """
    with context.database.read() as session:
        origin = lineage.find(session, caller.project_id, recipe.model)
    recipe = lineage.inherit_technique(recipe, origin)
    layers.require(recipe, origin)
    with context.database.write() as session:
        lineage.hold(session, caller.project_id, origin)
        duplicate = find_duplicate(session, caller.project_id, recipe, context.settings.retried_create_s, repeated)
        if duplicate is not None:
            return duplicate
        project_limits.require_jobs(context, session, caller.project_id)
        job = insert_job(context, session, caller, recipe, origin)
    context.doorbell.ring(Stage.PREPARE, job.id)
    return job


def get(context: Context, caller: Caller, job_id: str) -> Job:
    with context.database.connect() as connection:
        return _require(jobs.read(connection, caller.project_id, job_id), job_id)


def recipe(context: Context, caller: Caller, job_id: str) -> JsonObject:
    """Return the body of a request that creates the same job again: its recipe, with its seed.

    Options have the names of this release, even if an earlier release created the job.
    """
    job = get(context, caller, job_id)
    recipe = Recipe.model_validate({**job.recipe, "seed": job.seed}).model_dump(mode="json")
    return {name: value for name, value in recipe.items() if value is not None}


def page(
    context: Context,
    caller: Caller,
    filters: JobFilters = EVERY_JOB,
    *,
    after: str | None,
    limit: int,
) -> Page[Job]:
    with context.database.read() as session:
        return jobs.page(session, caller.project_id, filters, after=after, limit=limit)


def cancel(context: Context, caller: Caller, job_id: str) -> Job:
    """Cancel the job at once. The worker that trains it notices that it has lost the job (its fence is stale), and
    stops."""
    with context.database.write() as session:
        job = _require(jobs.lock(session, job_id, caller.project_id), job_id)
        if job.status in FINAL:
            raise WrongState(f"{job_id} has already {_outcome(job)}: it cannot be cancelled")
        job_queue.end_attempts(session, job_id, JobStatus.CANCELLED)
        jobs.transition(session, job_id, JobStatus.CANCELLED, message="Fine-tuning job cancelled")
        session.refresh(job)
    return job


def pause(context: Context, caller: Caller, job_id: str) -> Job:
    """Pause a queued job at once, and a running one once its trainer has saved a state."""
    with context.database.write() as session:
        job = _require(jobs.lock(session, job_id, caller.project_id), job_id)
        if job.status == JobStatus.QUEUED:
            jobs.transition(session, job_id, JobStatus.PAUSED, message="Fine-tuning job paused")
        elif job.status == JobStatus.RUNNING:
            if not job.pause_requested:
                job.pause_requested = True
                events.add_event(session, job_id, "Pause requested: the job will pause once its state is saved")
        else:
            raise WrongState(f"{job_id} is {job.status}: only a queued or running job can be paused")
        session.flush()
        session.refresh(job)
    return job


def resume(context: Context, caller: Caller, job_id: str) -> Job:
    with context.database.write() as session:
        job = _require(jobs.lock(session, job_id, caller.project_id), job_id)
        if job.status != JobStatus.PAUSED:
            raise WrongState(f"{job_id} is {job.status}: only a paused job can be resumed")
        jobs.transition(
            session, job_id, JobStatus.QUEUED, message="Fine-tuning job resumed: back in the queue", rung_at=db_now()
        )
        session.refresh(job)
    context.doorbell.ring(Stage.TRAIN, job.id)
    return job


def event_page(
    context: Context, caller: Caller, job_id: str, *, messages_only: bool, after: str | None, limit: int
) -> Page[Event]:
    with context.database.read() as session:
        _require_exists(session, caller, job_id)
        return events.page(session, job_id, messages_only=messages_only, after=after, limit=limit)


def attempts(context: Context, caller: Caller, job_id: str) -> Sequence[Attempt]:
    """Return the job's attempts, oldest first. Raise NoSuchJob."""
    with context.database.read() as session:
        _require_exists(session, caller, job_id)
        return job_queue.attempts_of(session, job_id)


def checkpoint_page(
    context: Context, caller: Caller, job_id: str, *, after: str | None, limit: int
) -> Page[Checkpoint]:
    with context.database.read() as session:
        _require_exists(session, caller, job_id)
        return models.checkpoint_page(session, job_id, after=after, limit=limit)


def require(context: Context, caller: Caller, job_id: str) -> None:
    """Raise NoSuchJob if the project has no such job."""
    with context.database.read() as session:
        _require_exists(session, caller, job_id)


def published_model(context: Context, caller: Caller, job_id: str) -> str:
    """Return the id of the job's published model. Raise WrongState if the job has published none, NoSuchModel if the
    model was deleted, and NoSuchJob."""
    job = get(context, caller, job_id)
    if job.fine_tuned_model is None:
        raise WrongState(f"{job_id} is {job.status}: it has published no model")
    with context.database.read() as session:
        if models.get(session, caller.project_id, job.fine_tuned_model) is None:
            raise NoSuchModel(job.fine_tuned_model)
    return job.fine_tuned_model


def _require_exists(session: Session, caller: Caller, job_id: str) -> None:
    if not jobs.exists(session, caller.project_id, job_id):
        raise NoSuchJob(job_id)


def _require(job: Job | None, job_id: str) -> Job:
    if job is None:
        raise NoSuchJob(job_id)
    return job


def _outcome(job: Job) -> str:
    return {"cancelled": "been cancelled"}.get(job.status, job.status)


def find_duplicate(session: Session, project_id: str, recipe: Recipe, within_s: float, repeated: bool) -> Job | None:
    """Return the newest job of the last `within_s` seconds with the same recipe; None if the request is not repeated.

    A client that gets no response sends its request again, although the first one may have created a job. The project
    is locked, so that a repeated request waits for the first one.
    """
    projects.lock(session, project_id)
    if not repeated:
        return None
    requested = recipe.model_dump(mode="json")
    recent = jobs.created_since(session, project_id, recipe.training_file, within_s)
    return next((job for job in recent if job.recipe == requested), None)
