"""Batches as OpenAI's objects."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import BaseModel

from api.records.batches import Batch
from api.schemas.common import ends, seconds
from api.services.files import ExpiresAfter
from api.spec.batch import BatchStatus, Endpoint
from api.spec.fields import NulFreeModel
from api.spec.recipe import Metadata


class BatchBody(NulFreeModel):
    input_file_id: str
    """Id of a file with purpose `batch`: JSON lines of `custom_id`, `method`, `url` and `body`."""
    endpoint: Endpoint
    """The `url` of every line."""
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None
    """Expiry of the output file and the error file."""


class BatchError(BaseModel):
    code: str
    message: str
    param: str | None
    line: int | None
    """Number of the line in the input file, from 1."""


class BatchErrors(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchError]


class RequestCounts(BaseModel):
    total: int
    completed: int
    failed: int


class InputTokensDetails(BaseModel):
    cached_tokens: Literal[0] = 0


class OutputTokensDetails(BaseModel):
    reasoning_tokens: int


class BatchUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputTokensDetails = InputTokensDetails()
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class BatchObject(BaseModel):
    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    """The model of all requests; null before validation, and if they name several."""
    errors: BatchErrors | None
    """The faults of a failed batch's input file."""
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: BatchStatus
    output_file_id: str | None
    """File with the answers, once the batch has ended; null if no request was answered."""
    error_file_id: str | None
    """File with the requests that were not answered, once the batch has ended; null if there are none."""
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None

    @classmethod
    def of(cls, batch: Batch) -> Self:
        times = [name for name in cls.model_fields if name.endswith("_at")]
        return cls(
            id=batch.id,
            endpoint=batch.endpoint,
            model=batch.model,
            errors=None if batch.errors is None else BatchErrors(**batch.errors),
            input_file_id=batch.input_file,
            status=BatchStatus(batch.status),
            output_file_id=batch.output_file,
            error_file_id=batch.error_file,
            request_counts=RequestCounts(total=batch.total, completed=batch.completed, failed=batch.failed),
            usage=BatchUsage(
                input_tokens=batch.prompt_tokens,
                output_tokens=batch.completion_tokens,
                output_tokens_details=OutputTokensDetails(reasoning_tokens=batch.reasoning_tokens),
                total_tokens=batch.prompt_tokens + batch.completion_tokens,
            ),
            metadata=batch.pairs,
            **{name: seconds(getattr(batch, name)) for name in times},
        )


class BatchList(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchObject]
    has_more: bool
    first_id: str | None
    last_id: str | None

    @classmethod
    def of(cls, rows: Sequence[Batch], has_more: bool) -> Self:
        return cls(data=[BatchObject.of(row) for row in rows], has_more=has_more, **ends(rows))
