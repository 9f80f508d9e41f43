"""Jobs: submit, cancel, pause, resume. What a worker does with them is in worker/supervisor/supervise.py."""

import secrets

from sqlalchemy.orm import Session

from api import catalog
from api.context import Caller, Context
from api.errors import InvalidRequest, NotFound, TooManyRequests
from api.ids import new_id, random_letters, slug
from api.lifecycle import FINAL, JobStatus, Stage
from api.recipe import Recipe
from api.records import base_models, events, files, jobs, models
from api.records.base import db_now
from api.records.base_models import BaseModel
from api.records.events import Event
from api.records.jobs import Job
from api.records.models import Checkpoint
from api.records.pages import Page
from api.services import retries
from api.services.models import NoSuchModel


class NoSuchJob(NotFound):
    param = "fine_tuning_job_id"
    code = "fine_tune_not_found"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Could not find fine tune: {job_id[:64]}")


class Illegal(InvalidRequest):
    """This technique and method do not go with this base model."""

    code = "unsupported_combination"


class WrongState(InvalidRequest):
    """The job's status does not allow it. 400, not 409, which OpenAI's clients would send three times."""

    code = "invalid_job_state"


def submit(context: Context, caller: Caller, recipe: Recipe, *, repeated: bool = False) -> Job:
    """Accept a job: row and event in one transaction, then a ring. A repeated request gets the job already made."""
    with context.database.write() as session:
        if made := retries.made_before(session, caller.project_id, recipe, context.settings.retried_create_s, repeated):
            return made
        _check_quota(context, session, caller)
        base = _check_model(session, caller, recipe.model)
        if refused := catalog.refusal(recipe.technique, recipe.method, base.facts):
            raise Illegal(refused.message, param=refused.param)
        _check_file(session, caller, recipe.training_file, "training_file")
        if recipe.validation_file is not None:
            _check_file(session, caller, recipe.validation_file, "validation_file")
        suffix = slug(recipe.suffix) if recipe.suffix else ""
        job = Job(
            id=new_id("ftjob-"),
            project_id=caller.project_id,
            status=JobStatus.VALIDATING_FILES,
            created_at=db_now(),
            recipe=recipe.model_dump(mode="json"),
            base_model=recipe.model,
            training_file=recipe.training_file,
            validation_file=recipe.validation_file,
            seed=secrets.randbelow(2**31) if recipe.seed is None else recipe.seed,
            priority=recipe.priority,
            model_id=f"ft:{recipe.model}:{context.settings.organization}:{suffix}:{random_letters(8)}",
            rung_at=db_now(),
        )
        session.add(job)
        session.flush()
        events.say(session, job.id, f"Created fine-tuning job: {job.id}")
        session.refresh(job)
    context.doorbell.ring(Stage.PREPARE, job.id)
    return job


def _check_quota(context: Context, session: Session, caller: Caller) -> None:
    limit = context.settings.max_active_jobs
    if jobs.active_count(session, caller.project_id) >= limit:
        raise TooManyRequests(
            f"This project already has {limit} jobs that have not ended, the most that this server allows",
            code="too_many_active_jobs",
            headers={"x-should-retry": "false"},
        )


def _check_model(session: Session, caller: Caller, name: str) -> BaseModel:
    if (base := base_models.get(session, name)) is not None:
        return base
    if models.get(session, caller.project_id, name) or models.get_checkpoint(session, caller.project_id, name):
        raise InvalidRequest(
            "Continuing from a fine-tuned model is not supported yet: name a base model",
            param="model",
            code="model_not_available",
        )
    raise InvalidRequest(
        f"The model `{name[:128]}` does not exist here: GET /v1/models lists those that can be fine-tuned",
        param="model",
        code="model_not_found",
    )


def _check_file(session: Session, caller: Caller, file_id: str, param: str) -> None:
    file = files.get_to_use(session, caller.project_id, file_id)
    if file is None:
        raise InvalidRequest(f"No such File object: {file_id}", param=param, code="file_not_found")
    if file.purpose != "fine-tune":
        raise InvalidRequest(
            f"{file_id} has purpose '{file.purpose}': {param} must be a file with purpose 'fine-tune'",
            param=param,
            code="invalid_file_purpose",
        )


def get(context: Context, caller: Caller, job_id: str) -> Job:
    with context.database.read() as session:
        return _found(jobs.get(session, caller.project_id, job_id), job_id)


def page(
    context: Context, caller: Caller, *, metadata: dict[str, str] | None = None, after: str | None, limit: int
) -> Page[Job]:
    with context.database.read() as session:
        return jobs.page(session, caller.project_id, metadata=metadata, after=after, limit=limit)


def cancel(context: Context, caller: Caller, job_id: str) -> Job:
    """Final at once: whoever trains it finds its fence gone and stops."""
    with context.database.write() as session:
        job = _found(jobs.lock(session, job_id, caller.project_id), job_id)
        if job.status in FINAL:
            raise WrongState(f"{job_id} has already {_ended(job)}: it cannot be cancelled")
        jobs.move(session, job_id, JobStatus.CANCELLED, message="Fine-tuning job cancelled")
        session.refresh(job)
    return job


def pause(context: Context, caller: Caller, job_id: str) -> Job:
    """A queued job is paused at once; a running one when its trainer has saved a state."""
    with context.database.write() as session:
        job = _found(jobs.lock(session, job_id, caller.project_id), job_id)
        if job.status == JobStatus.QUEUED:
            jobs.move(session, job_id, JobStatus.PAUSED, message="Fine-tuning job paused")
        elif job.status == JobStatus.RUNNING:
            if not job.pause_requested:
                job.pause_requested = True
                events.say(session, job_id, "Pause requested: the job will pause once its state is saved")
        else:
            raise WrongState(f"{job_id} is {job.status}: only a queued or running job can be paused")
        session.flush()
        session.refresh(job)
    return job


def resume(context: Context, caller: Caller, job_id: str) -> Job:
    with context.database.write() as session:
        job = _found(jobs.lock(session, job_id, caller.project_id), job_id)
        if job.status != JobStatus.PAUSED:
            raise WrongState(f"{job_id} is {job.status}: only a paused job can be resumed")
        jobs.move(
            session, job_id, JobStatus.QUEUED, message="Fine-tuning job resumed: back in the queue", rung_at=db_now()
        )
        session.refresh(job)
    context.doorbell.ring(Stage.TRAIN, job.id)
    return job


def event_page(context: Context, caller: Caller, job_id: str, *, after: str | None, limit: int) -> Page[Event]:
    with context.database.read() as session:
        _found(jobs.get(session, caller.project_id, job_id), job_id)
        return events.page(session, job_id, after=after, limit=limit)


def checkpoint_page(
    context: Context, caller: Caller, job_id: str, *, after: str | None, limit: int
) -> Page[Checkpoint]:
    with context.database.read() as session:
        _found(jobs.get(session, caller.project_id, job_id), job_id)
        return models.checkpoint_page(session, job_id, after=after, limit=limit)


def published_model(context: Context, caller: Caller, job_id: str) -> str:
    """The id of the model that the job published. Raises WrongState if there is none (yet)."""
    job = get(context, caller, job_id)
    if job.fine_tuned_model is None:
        raise WrongState(f"{job_id} is {job.status}: it has published no adapter")
    with context.database.read() as session:
        if models.get(session, caller.project_id, job.fine_tuned_model) is None:
            raise NoSuchModel(job.fine_tuned_model)
    return job.fine_tuned_model


def _found(job: Job | None, job_id: str) -> Job:
    if job is None:
        raise NoSuchJob(job_id)
    return job


def _ended(job: Job) -> str:
    return {"cancelled": "been cancelled"}.get(job.status, job.status)
