"""Usage, one object for each group, and the project's budgets."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal, Self

from pydantic import BaseModel

from api.services.budgets import Budget
from api.services.usage import UsageLine


class UsageObject(BaseModel):
    object: Literal["usage"] = "usage"
    start_time: int
    """Unix time at which the first day begins (UTC)."""
    end_time: int
    """Unix time at which the last day ends."""
    key_id: str | None
    """Id of the key that was used. Null if `group_by` does not name `key`, or if the key is unknown."""
    key_name: str | None
    model: str | None
    """The trained or sampled model, as the request named it. Null if `group_by` does not name `model`, and for stored
    bytes."""
    project_id: str | None
    """Null if `group_by` does not name `project`: the usage is then that of the key's own project."""
    project_name: str | None
    trained_tokens: int
    """Tokens of all training steps. A step that was trained again after a fault counts once."""
    cpu_seconds: float
    """Seconds of attempts that had no GPU: every preparation, and training on CPUs."""
    gpu_seconds: float
    prompt_tokens: int
    completion_tokens: int
    stored_bytes: int
    """Bytes of files, uploads, models and checkpoints: the largest of the daily values."""


class BudgetObject(BaseModel):
    object: Literal["budget"] = "budget"
    name: Literal["trained_tokens", "device_seconds", "stored_bytes"]
    used: int
    """Use since the beginning of the month, including running jobs; for `stored_bytes`, the bytes stored now."""
    limit: int | None
    """The budget; null: no limit."""
    resets_at: int | None
    """Unix time at which the month ends (UTC); null for `stored_bytes`."""


class UsageList(BaseModel):
    object: Literal["list"] = "list"
    data: list[UsageObject]
    has_more: Literal[False] = False
    budgets: list[BudgetObject]

    @classmethod
    def of(cls, lines: Sequence[UsageLine], budgets: Sequence[Budget]) -> Self:
        return cls(
            data=[UsageObject(**asdict(line)) for line in lines],
            budgets=[BudgetObject.model_validate(asdict(budget)) for budget in budgets],
        )
