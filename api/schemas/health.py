"""Checks of the service's components."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal, Self

from pydantic import BaseModel

from api.services.diagnosis import Check


class HealthCheck(BaseModel):
    object: Literal["health_check"] = "health_check"
    component: str
    status: Literal["ok", "warning", "problem"]
    detail: str
    remedy: str | None
    """What to do; null if nothing is wrong."""


class HealthCheckList(BaseModel):
    object: Literal["list"] = "list"
    data: list[HealthCheck]
    has_more: Literal[False] = False

    @classmethod
    def of(cls, checks: Sequence[Check]) -> Self:
        return cls(data=[HealthCheck(**asdict(check)) for check in checks])
