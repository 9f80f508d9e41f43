"""The history of a job: its events, metrics, attempts and checkpoints."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Literal, Self

import msgspec
from pydantic import BaseModel

from api.records.events import Event
from api.records.job_queue import Attempt
from api.records.models import Checkpoint
from api.schemas.common import ends, seconds
from api.schemas.jobs import JobEvalRun
from api.schemas.stored import StoredJson, stored
from api.services.job_evals import EvalResult
from api.spec.fields import JsonObject
from api.spec.lifecycle import FAILURES, Stage


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
