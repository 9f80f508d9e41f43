"""Pipelines: jobs that are created together or not at all. Each job is a stage, and waits for the stages that it
needs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy.orm import Session

from api.context import Caller, Context
from api.errors import InvalidRequest, NotFound, ServiceError
from api.records import dependencies, job_queue, jobs, pipelines
from api.records.base import db_now
from api.records.base_models import BaseModelRow
from api.records.dependencies import Dependency
from api.records.jobs import Job
from api.records.pages import Page, cut_to_size, size_of
from api.records.pipelines import Pipeline
from api.services import graders, layers, lineage, project_limits
from api.services.admission import insert_job
from api.services.jobs import WrongState
from api.services.lineage import Origin
from api.spec.ids import new_id
from api.spec.lifecycle import FINAL, JobStatus, Stage
from api.spec.pipeline import REFERENCE, StageRecipe, references, resolved_references
from api.spec.pipeline import Pipeline as Body
from api.spec.recipe import Recipe


class NoSuchPipeline(NotFound):
    param = "pipeline_id"
    code = "pipeline_not_found"

    def __init__(self, pipeline_id: str) -> None:
        super().__init__(f"Could not find pipeline: {pipeline_id[:64]}")


@dataclass(frozen=True)
class PipelineView:
    pipeline: Pipeline
    jobs: Sequence[Job]
    """The jobs of the stages, in their order."""
    needs: Sequence[Dependency]

    @property
    def status(self) -> str:
        """The status of the whole pipeline, one of the statuses that a job can have."""
        statuses = {JobStatus(job.status) for job in self.jobs}
        if statuses <= FINAL:
            return next(
                status for status in (JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.SUCCEEDED) if status in statuses
            )
        if JobStatus.RUNNING in statuses or JobStatus.SUCCEEDED in statuses:
            return JobStatus.RUNNING
        order = (JobStatus.VALIDATING_FILES, JobStatus.QUEUED, JobStatus.PAUSED)
        return next(status for status in order if status in statuses)


def create(context: Context, caller: Caller, body: Body) -> PipelineView:
    """Create the jobs of all stages in one transaction, then notify workers of each job.

    Raise InvalidRequest if a stage cannot run, TooManyRequests if the project would have too many jobs.
    """
    bases: dict[str, BaseModelRow] = {}
    stages: list[tuple[StageRecipe, Origin | None]] = []
    for index, stage in enumerate(body.stages):
        with _naming_stage(index, stage):
            stages.append(_check_layers(context, caller, stage, bases))
    with context.database.write() as session:
        project_limits.require_jobs(context, session, caller.project_id, more=len(body.stages))
        pipeline = Pipeline(
            id=new_id("ftpipe-"),
            project_id=caller.project_id,
            model=body.model,
            suffix=body.suffix,
            pairs=body.metadata,
            stages=[],
            created_at=db_now(),
        )
        session.add(pipeline)
        session.flush()
        jobs_by_stage: dict[str, Job] = {}
        for index, (stage, origin) in enumerate(stages):
            with _naming_stage(index, stage):
                jobs_by_stage[stage.name] = _insert_stage(
                    context, session, caller, pipeline.id, stage, origin, jobs_by_stage
                )
        pipeline.stages = [{"name": name, "job_id": job.id} for name, job in jobs_by_stage.items()]
        session.flush()
        session.refresh(pipeline)
        view = _view(session, pipeline)
    context.doorbell.ring_all((Stage.PREPARE, job.id) for job in view.jobs)
    return view


async def require_scripts(context: Context, caller: Caller, body: Body) -> None:
    """Raise GraderRefused if the sandbox cannot run a script of a stage's grader. Raise TooBusy, PreviewFailed."""
    for index, stage in enumerate(body.stages):
        with _naming_stage(index, stage):
            await graders.require_scripts_in_turn(context, caller, stage)


def _check_layers(
    context: Context, caller: Caller, stage: StageRecipe, bases: dict[str, BaseModelRow]
) -> tuple[StageRecipe, Origin | None]:
    """Return the stage with the technique that it inherits, and its origin. The origin is None if the stage begins from
    an earlier stage, whose model has no row yet. Raise InvalidRequest for layers that the stage cannot train.

    `bases`: {name of an earlier stage that publishes a whole model: its base model}. If this stage publishes a whole
    model, an entry is added.
    """
    origin: Origin | None = None
    if stage.model.startswith(REFERENCE):
        layers.require_patterns(stage)
        base = bases.get(stage.model.removeprefix(REFERENCE))
        if base is None:
            # Either the earlier stage trains an adapter, and this stage keeps its layers, or no earlier stage has this
            # name, and this stage is refused later.
            return stage, None
        layers.require_of_base(stage, base)
    else:
        with context.database.read() as session:
            origin = lineage.find(session, caller.project_id, stage.model)
        stage = lineage.inherit_technique(stage, origin)
        layers.require(stage, origin)
        base = origin.base
    if stage.technique.whole_model:
        bases[stage.name] = base
    return stage, origin


@contextmanager
def _naming_stage(index: int, stage: StageRecipe) -> Iterator[None]:
    """Add the stage to the `param` and the message of errors."""
    try:
        yield
    except ServiceError as error:
        error.param = f"stages.{index}" + (f".{error.param}" if error.param else "")
        error.message = f"stages.{index} ({stage.name}): {error.message}"
        raise


def _insert_stage(
    context: Context,
    session: Session,
    caller: Caller,
    pipeline_id: str,
    stage: StageRecipe,
    origin: Origin | None,
    jobs_by_stage: dict[str, Job],
) -> Job:
    """Insert the job of a stage and its dependencies."""
    if stage.name in jobs_by_stage:
        raise InvalidRequest(f"two stages are called '{stage.name}'", param="name", code="invalid_value")
    plain = stage.model_dump(mode="json", exclude={"name"}, exclude_unset=True)
    if unknown := sorted(references(plain) - jobs_by_stage.keys()):
        earlier = ", ".join(REFERENCE + name for name in jobs_by_stage) or "none, because this stage is the first"
        raise InvalidRequest(
            f"'{REFERENCE}{unknown[0][:64]}' is not an earlier stage; the earlier stages are: {earlier}",
            param="model" if plain.get("model") == REFERENCE + unknown[0] else "method",
            code="unknown_stage",
        )
    recipe = Recipe.model_validate(
        resolved_references(plain, {name: job.model_id for name, job in jobs_by_stage.items()})
    )
    pending = {job.model_id: job for job in jobs_by_stage.values()}
    if origin is None:
        origin = lineage.find(session, caller.project_id, recipe.model, pending)
        recipe = lineage.inherit_technique(recipe, origin)
    else:
        lineage.hold(session, caller.project_id, origin)
    references_of_job = {"pipeline_id": pipeline_id, "pipeline_stage": stage.name}
    job = insert_job(context, session, caller, recipe, origin, pending=pending, **references_of_job)
    parent = pending.get(recipe.model)
    dependencies_of_job = {
        pending[use.model].id: Stage.TRAIN for use in recipe.method.named_models if use.model in pending
    }
    if parent is not None:
        # While a job that continues a classifier is prepared, its labels are compared with the classifier's. These are
        # known only once the classifier's rows are prepared.
        labels = recipe.method.output == "labels" and parent.recipe["method"]["type"] == recipe.method.type
        dependencies_of_job[parent.id] = Stage.PREPARE if labels else Stage.TRAIN
    session.add_all(
        Dependency(job_id=job.id, needs_job_id=other, stage=at) for other, at in dependencies_of_job.items()
    )
    session.flush()
    return job


def get(context: Context, caller: Caller, pipeline_id: str) -> PipelineView:
    with context.database.read() as session:
        return _view(session, _require(session, caller, pipeline_id))


def page(context: Context, caller: Caller, *, after: str | None, limit: int) -> Page[PipelineView]:
    with context.database.read() as session:
        rows = pipelines.page(session, caller.project_id, after=after, limit=limit)
        return cut_to_size(rows, (_view(session, pipeline) for pipeline in rows.data), _size)


def cancel(context: Context, caller: Caller, pipeline_id: str) -> PipelineView:
    """Cancel every stage that has not ended. Raise NoSuchPipeline, and WrongState if all have ended."""
    with context.database.write() as session:
        pipeline = _require(session, caller, pipeline_id)
        # Stages are locked from the first to the last, as when a stage fails with its dependents, so that there are no
        # deadlocks. They are cancelled from the last to the first, because a stage fails if one that it needs is
        # cancelled before it.
        rows = [jobs.lock(session, stage["job_id"], caller.project_id) for stage in pipeline.stages]
        unfinished = [job for job in rows if job is not None and job.status not in FINAL]
        if not unfinished:
            raise WrongState(f"{pipeline_id} has already ended: it cannot be cancelled")
        for job in reversed(unfinished):
            job_queue.end_attempts(session, job.id, JobStatus.CANCELLED)
            jobs.transition(session, job.id, JobStatus.CANCELLED, message="Fine-tuning job cancelled with its pipeline")
        session.expire_all()
        return _view(session, pipeline)


def _size(view: PipelineView) -> int:
    return sum(size_of(job) for job in view.jobs)


def _require(session: Session, caller: Caller, pipeline_id: str) -> Pipeline:
    pipeline = pipelines.get(session, caller.project_id, pipeline_id)
    if pipeline is None:
        raise NoSuchPipeline(pipeline_id)
    return pipeline


def _view(session: Session, pipeline: Pipeline) -> PipelineView:
    ids = [stage["job_id"] for stage in pipeline.stages]
    by_id = {job.id: job for job in jobs.with_ids(session, pipeline.project_id, ids)}
    return PipelineView(pipeline, [by_id[job_id] for job_id in ids], dependencies.of_jobs(session, ids))
