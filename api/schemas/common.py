"""Parts of many responses: errors, lists, deletions."""

from collections.abc import Sequence
from typing import Literal, Protocol

from pydantic import BaseModel


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorObject(BaseModel):
    error: ErrorDetail


class Memory(BaseModel):
    """Peak memory by use, in bytes."""

    runtime: int
    weights: int
    gradients: int
    optimizer: int
    reference: int
    activations: int
    logits: int
    rollout: int
    publishing: int
    """Additional memory at the end, while a second process reads the files before they are published."""
    total: int


class Deleted(BaseModel):
    id: str
    object: str
    deleted: Literal[True] = True


def errors(*statuses: int) -> dict[int | str, dict[str, object]]:
    """Return the `responses` of a route, given the statuses of its own errors. api.http.openapi adds the errors that
    all routes share."""
    return {status: {"model": ErrorObject} for status in statuses}


EVENT_STREAM: dict[str, object] = {
    "text/event-stream": {
        "schema": {
            "description": "One event.",
            "type": "object",
            "required": ["data"],
            "properties": {
                "id": {"type": "string"},
                "data": {"type": "string", "description": "JSON; `[DONE]` at the end of a completion."},
            },
        }
    }
}
"""The content of a response of server-sent events."""


class _Listed(Protocol):
    @property
    def id(self) -> str: ...


def ends(rows: Sequence[_Listed]) -> dict[str, str | None]:
    return {"first_id": rows[0].id if rows else None, "last_id": rows[-1].id if rows else None}


def seconds(time: float | None) -> int | None:
    """Return a time in whole seconds, as in OpenAI's objects."""
    return None if time is None else int(time)
