"""Jobs, events and checkpoints: OpenAI's objects with Attune's additional fields."""

import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from typing import Annotated, Literal, Self

import msgspec
from pydantic import BaseModel

from api.estimate.queue_forecast import Span
from api.records.events import Event
from api.records.job_queue import Attempt
from api.records.jobs import Job
from api.records.models import Checkpoint
from api.schemas.common import ends, seconds
from api.schemas.stored import StoredJson, stored
from api.services.job_evals import EvalResult
from api.services.waiting import QueueView, TimedJob
from api.spec.catalog import METHODS, TECHNIQUES
from api.spec.evaluation import Evaluation
from api.spec.fields import AUTO, JsonObject, with_current_names
from api.spec.lifecycle import FAILURES, Stage
from api.spec.resolve import auto_learning_rate

MOST_LABELS = 64
"""A classifier with more classes has no `labels` in its job: a list holds a hundred jobs."""


class JobError(BaseModel):
    code: str
    message: str
    param: str | None = None


class PipelineRef(BaseModel):
    id: str
    stage: str


class TimeRange(BaseModel):
    """The range that probably holds a time that is not certain."""

    earliest: int
    latest: int | None
    """The end of the range; null if it cannot be predicted, for example before the files of the job are prepared."""

    @classmethod
    def of(cls, span: Span | None) -> Self | None:
        if span is None:
            return None
        return cls(earliest=int(span.earliest), latest=None if math.isinf(span.latest) else math.ceil(span.latest))


class Queue(BaseModel):
    """Why a job waits, and when it will probably run."""

    position: int | None
    """Place in the order of waiting jobs: job 1 starts next. Null if the job waits for something other than its turn,
    which `reason` then names."""
    reason: str
    expected_start: TimeRange | None
    """When the job will probably begin to train; null while no worker can train it."""
    expected_finish: TimeRange | None

    @classmethod
    def of(cls, view: QueueView) -> Self:
        return cls(
            position=view.position,
            reason=view.reason,
            expected_start=TimeRange.of(view.start),
            expected_finish=TimeRange.of(view.finish),
        )


class JobEvalRun(BaseModel):
    eval_id: str
    run_id: str | None
    """Id of a run of the eval; null until the job succeeds."""
    model: str | None
    """The fine-tuned model or checkpoint that the run samples; null until the job succeeds."""
    score: float | None
    """Share of the run's items that passed, from 0 to 1; null until the run is completed."""
    best: bool
    """Whether this model has the highest score of the job's models, once all runs of the eval have ended."""

    @classmethod
    def of(cls, result: EvalResult) -> Self:
        return cls(**asdict(result))


class JobObject(BaseModel):
    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    started_at: int | None
    estimated_finish: int | None
    """When the job will probably end, including the comparison and the publication after the last step; null unless the
    job runs."""
    expected_finish: TimeRange | None
    """When the job will probably end; null unless it waits or runs."""
    status: str
    pause_requested: bool
    """Whether the job will be paused once its trainer has saved its state; until then it runs."""
    queue: Queue | None
    """Why the job waits and how long; null unless it waits for a worker."""
    error: JobError | None
    model: str
    """The requested model: a base model, or a fine-tuned model that the job continues."""
    base_model: str
    """The operator's base model that `model` is, or was fine-tuned from."""
    parent: str | None
    """The fine-tuned model or checkpoint that the job continues."""
    pipeline: PipelineRef | None
    fine_tuned_model: str | None
    organization_id: str
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    seed: int
    user_provided_suffix: str | None
    metadata: dict[str, str] | None
    integrations: list[Annotated[StoredJson, stored("Integration")]] | None
    hyperparameters: Annotated[StoredJson, stored("Hyperparameters")]
    method: Annotated[StoredJson, stored("Method")]
    labels: list[str] | None
    """Names of a classifier's classes, in the order of its metrics. Null for other methods, for more than 64 classes,
    and until the rows are prepared."""
    technique: Annotated[StoredJson, stored("Technique")]
    training: Annotated[StoredJson, stored("ResolvedTraining")]
    resources: Annotated[StoredJson, stored("Resources")]
    export: Annotated[StoredJson, stored("Export")]
    priority: int
    progress: Annotated[StoredJson, stored("Progress")] | None
    """The progress of the training; null until the job begins to train."""
    estimate: Annotated[StoredJson, stored("JobEstimate")] | None
    """Predicted and actual memory and time; null until the job begins to train."""
    evaluation: Evaluation | None
    """Comparison of the model before and after its training, on the same rows; null until the job succeeds."""
    evals: list[JobEvalRun]
    """The evals that the job requested."""

    @classmethod
    def of(cls, timed: TimedJob, organization: str, evals: Sequence[EvalResult]) -> Self:
        job = timed.job
        recipe, method = job.recipe, shown_method(job)
        return cls(
            id=job.id,
            created_at=int(job.created_at),
            finished_at=seconds(job.finished_at),
            started_at=seconds(job.started_at),
            estimated_finish=seconds(timed.running_until),
            expected_finish=TimeRange.of(timed.finish),
            status=job.status,
            pause_requested=job.pause_requested,
            queue=None if timed.queue is None else Queue.of(timed.queue),
            error=JobError(**job.error) if job.error else None,
            model=recipe["model"],
            base_model=job.base_model,
            parent=job.parent_model,
            pipeline=_pipeline(job),
            fine_tuned_model=job.fine_tuned_model,
            organization_id=f"org-{organization}",
            training_file=job.training_file,
            validation_file=job.validation_file,
            result_files=job.result_files,
            trained_tokens=job.trained_tokens,
            seed=job.seed,
            user_provided_suffix=recipe["suffix"],
            metadata=recipe["metadata"],
            integrations=recipe["integrations"] or None,
            hyperparameters=method[method["type"]]["hyperparameters"],
            method=method,
            labels=_labels(job),
            technique=with_current_names(TECHNIQUES[recipe["technique"]["type"]], recipe["technique"]),
            training=_training(job),
            resources={"gpus": job.gpus} if job.resolved else recipe["resources"],
            export=_export(job),
            priority=job.priority,
            progress=job.progress or None,
            estimate=_estimate(job),
            evaluation=None if job.evaluation is None else Evaluation.model_validate(job.evaluation),
            evals=[JobEvalRun.of(result) for result in evals],
        )


def shown_method(job: Job) -> JsonObject:
    """Return the requested method, with a number in place of each "auto" that is resolved.

    For a job with its own `training.learning_rate`, the multiplier is the one that would give the same rate.
    """
    method = _with_current_options(job.recipe["method"])
    if job.resolved is None:
        return method
    options = method[method["type"]]
    requested = options["hyperparameters"]
    resolved_values = {
        "eval_interval": job.resolved["eval_every"],
        **METHODS[method["type"]].options_class().hyperparameters_class().auto_defaults,
    }
    numbers = {name: resolved_values.get(name, value) if value == AUTO else value for name, value in requested.items()}
    numbers |= {"n_epochs": job.resolved["n_epochs"], "batch_size": job.resolved["batch_size"]}
    if job.recipe["training"].get("learning_rate") not in (AUTO, None):
        usual = auto_learning_rate(TECHNIQUES[job.recipe["technique"]["type"]], METHODS[method["type"]])
        numbers["learning_rate_multiplier"] = job.resolved["learning_rate"] / usual
    return {**method, method["type"]: {**options, "hyperparameters": numbers}}


def _with_current_options(method: JsonObject) -> JsonObject:
    kind = method["type"]
    return {**method, kind: with_current_names(METHODS[kind].options_class(), method[kind])}


def _labels(job: Job) -> list[str] | None:
    names: list[str] = ((job.resolved or {}).get("labels") or {}).get("names") or []
    return names if 0 < len(names) <= MOST_LABELS else None


def _estimate(job: Job) -> JsonObject | None:
    if job.estimate is None or "predicted" not in job.estimate:
        return None
    return {"predicted": job.estimate["predicted"], "actual": job.estimate.get("actual")}


def _training(job: Job) -> JsonObject:
    requested: JsonObject = job.recipe["training"]
    resolved = job.resolved
    if resolved is None:
        return requested
    resolved_options = {name: resolved[name] for name in requested if name in resolved}
    extra = {name: resolved[name] for name in ("total_steps", "steps_per_epoch", "warmup_steps")}
    return {**requested, **resolved_options, **extra}


def _pipeline(job: Job) -> PipelineRef | None:
    if job.pipeline_id is None or job.pipeline_stage is None:
        return None
    return PipelineRef(id=job.pipeline_id, stage=job.pipeline_stage)


def _export(job: Job) -> JsonObject:
    requested: JsonObject = job.recipe.get("export") or {"merged": "auto"}  # jobs of older releases have no export
    return requested if job.resolved is None else {**requested, "merged": job.resolved.get("merged", False)}


class EventObject(BaseModel):
    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: str
    message: str
    type: str
    data: StoredJson | None

    @classmethod
    def of(cls, event: Event) -> Self:
        return cls(
            id=event.id,
            created_at=int(event.created_at),
            level=event.level,
            message=event.message,
            type=event.type,
            data=event.data,
        )


class AttemptObject(BaseModel):
    """One claim of a job by a worker."""

    object: Literal["fine_tuning.job.attempt"] = "fine_tuning.job.attempt"
    number: int
    """Number of the attempt, from 1."""
    stage: Stage
    worker: str
    started_at: int
    ended_at: int | None
    outcome: str | None
    """The job's status after the attempt, or the reason of a failure; null while it runs."""
    explanation: str | None
    """A sentence that explains the reason of a failure; null without a failure."""
    gpus: int
    tokens: int
    """Tokens that the attempt trained for the first time, without steps that an earlier attempt had trained already."""

    @classmethod
    def of(cls, number: int, attempt: Attempt) -> Self:
        failures = {reason.value: policy.sentence for reason, policy in FAILURES.items()}
        return cls(
            number=number,
            stage=Stage(attempt.stage),
            worker=attempt.owner,
            started_at=int(attempt.started_at),
            ended_at=seconds(attempt.ended_at),
            outcome=attempt.outcome,
            explanation=failures.get(attempt.outcome or ""),
            gpus=attempt.gpus,
            tokens=attempt.tokens,
        )


class CheckpointObject(BaseModel):
    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: StoredJson
    step_number: int
    evals: list[JobEvalRun]
    """Runs of the job's evals on this checkpoint."""

    @classmethod
    def of(cls, checkpoint: Checkpoint, evals: Sequence[EvalResult]) -> Self:
        return cls(
            id=checkpoint.id,
            created_at=int(checkpoint.created_at),
            fine_tuned_model_checkpoint=checkpoint.model_id,
            fine_tuning_job_id=checkpoint.job_id,
            metrics=checkpoint.metrics,
            step_number=checkpoint.step,
            evals=[JobEvalRun.of(result) for result in evals if result.model == checkpoint.model_id],
        )


class JobList(BaseModel):
    object: Literal["list"] = "list"
    data: list[JobObject]
    has_more: bool


class EventList(BaseModel):
    object: Literal["list"] = "list"
    data: list[EventObject]
    has_more: bool


class MetricList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Annotated[StoredJson, stored("Metrics")]]
    has_more: Literal[False] = False
    total_points: int
    """The number of all steps, including those that are not listed."""


def metric_points(points: Sequence[JsonObject]) -> bytes:
    """Return the JSON of some elements of a MetricList's `data`."""
    return msgspec.json.encode(points)[1:-1]


async def metric_list_body(batches: AsyncIterator[bytes], total_points: int) -> AsyncIterator[bytes]:
    """Yield the JSON of a MetricList batch by batch, since a long job has hundreds of thousands of steps.

    `batches`: results of `metric_points`.
    """
    yield b'{"object":"list","data":['
    separator = b""
    async for points in batches:
        if points:  # else they were deleted
            yield separator + points
            separator = b","
    yield b'],"has_more":false,"total_points":%d}' % total_points


class AttemptList(BaseModel):
    object: Literal["list"] = "list"
    data: list[AttemptObject]
    has_more: Literal[False] = False

    @classmethod
    def of(cls, attempts: Sequence[Attempt]) -> Self:
        return cls(data=[AttemptObject.of(number, attempt) for number, attempt in enumerate(attempts, 1)])


class CheckpointList(BaseModel):
    object: Literal["list"] = "list"
    data: list[CheckpointObject]
    has_more: bool
    first_id: str | None
    last_id: str | None

    @classmethod
    def of(cls, rows: Sequence[Checkpoint], has_more: bool, evals: Sequence[EvalResult]) -> Self:
        """`evals`: the results of the job's evals."""
        return cls(data=[CheckpointObject.of(row, evals) for row in rows], has_more=has_more, **ends(rows))
