"""Where else a job's metrics go because its user asked for it: OpenAI's `integrations`."""

from typing import Annotated, Literal

from pydantic import Field

from api.fields import Strict

MAX_INTEGRATIONS = 5
"""OpenAI's limit."""

Project = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^/\\#?%:\x00-\x1f]+$")]
"""Weights & Biases takes no other characters in the name of a project."""
Tag = Annotated[str, Field(min_length=1, max_length=64)]


class Wandb(Strict):
    project: Project
    name: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """What the run is shown as; null: the job's id."""
    entity: Project | None = None
    """The user or team that the project belongs to; null: that of the operator's key."""
    tags: Annotated[list[Tag], Field(max_length=50)] = Field(default_factory=list)


class Integration(Strict):
    type: Literal["wandb"]
    wandb: Wandb


Integrations = Annotated[list[Integration], Field(max_length=MAX_INTEGRATIONS)]
