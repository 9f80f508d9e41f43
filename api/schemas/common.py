"""What every answer shares: errors, lists, deletions."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorObject(BaseModel):
    error: ErrorDetail


class Memory(BaseModel):
    """Bytes, at the peak."""

    runtime: int
    weights: int
    gradients: int
    optimizer: int
    reference: int
    activations: int
    logits: int
    rollout: int
    publishing: int
    """What the end takes beyond the rest, when a second process reads the files that are about to be published."""
    total: int


class Deleted(BaseModel):
    id: str
    object: str
    deleted: Literal[True] = True


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route can answer beside the errors that all have (api.http.openapi): its `responses`."""
    return {status: {"model": ErrorObject} for status in statuses}


EVENT_STREAM: dict[str, Any] = {
    "text/event-stream": {
        "schema": {
            "description": "Of each event.",
            "type": "object",
            "required": ["data"],
            "properties": {
                "id": {"type": "string"},
                "data": {"type": "string", "description": "JSON; at the end of a completion, `[DONE]`."},
            },
        }
    }
}
"""The content of an answer that comes in server-sent events."""


def ends(rows: Sequence[Any]) -> dict[str, str | None]:
    return {"first_id": rows[0].id if rows else None, "last_id": rows[-1].id if rows else None}


def seconds(time: float | None) -> int | None:
    """As OpenAI's objects tell times."""
    return None if time is None else int(time)
