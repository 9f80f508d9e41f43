"""Statuses of a batch, and one line of its input file. Pure: no database, no HTTP."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from api.spec.fields import JsonObject, StrictModel

Endpoint = Literal["/v1/chat/completions", "/v1/completions"]
WINDOW_S = 24 * 3600
"""Seconds from a batch's creation to its expiry."""


class BatchStatus(StrEnum):
    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


TRANSITIONS: dict[BatchStatus, frozenset[BatchStatus]] = {
    BatchStatus.VALIDATING: frozenset(
        {BatchStatus.IN_PROGRESS, BatchStatus.FAILED, BatchStatus.EXPIRED, BatchStatus.CANCELLING}
    ),
    BatchStatus.IN_PROGRESS: frozenset({BatchStatus.FINALIZING, BatchStatus.CANCELLING}),
    BatchStatus.FINALIZING: frozenset({BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLING}),
    BatchStatus.CANCELLING: frozenset({BatchStatus.CANCELLED}),
    BatchStatus.COMPLETED: frozenset(),
    BatchStatus.FAILED: frozenset(),
    BatchStatus.EXPIRED: frozenset(),
    BatchStatus.CANCELLED: frozenset(),
}

BATCH_FINAL = frozenset(status for status, following in TRANSITIONS.items() if not following)


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("the text holds a NUL character (\\u0000), which cannot be stored")
    return text


class BatchLine(StrictModel):
    """One request of a batch."""

    custom_id: Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_storable)]
    """The caller's own id for the request, unique in the batch."""
    method: Literal["POST"]
    url: Endpoint
    body: JsonObject
    """The body for the endpoint. It is validated when the request is answered."""
