"""Jobs: OpenAI's object with Attune's additional fields."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Literal, Self

from pydantic import BaseModel

from api.estimate.queue_forecast import Span
from api.records.jobs import Job
from api.schemas.common import seconds
from api.schemas.stored import StoredJson, stored
from api.services.job_evals import EvalResult
from api.services.waiting import QueueView, TimedJob
from api.spec.catalog import METHODS, TECHNIQUES
from api.spec.evaluation import Evaluation
from api.spec.fields import AUTO, JsonObject, with_current_names
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


class JobList(BaseModel):
    object: Literal["list"] = "list"
    data: list[JobObject]
    has_more: bool
