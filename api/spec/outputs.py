"""A job's outputs besides the trained weights: other forms of the model, a push to a hub, and metrics for trackers."""

from typing import Annotated, Literal

from pydantic import Field

from api.spec.fields import AUTO, Auto, StrictModel

GGUF_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Families of base models whose export to GGUF has been verified: the file gives the same outputs as the model."""

Repository = Annotated[str, Field(max_length=96, pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]


class Hub(StrictModel):
    repository: Repository
    """`NAMESPACE/NAME`, where NAMESPACE is the operator's."""
    private: bool = True
    """Whether the repository is private if the push creates it."""


class Export(StrictModel):
    merged: Auto[bool] = AUTO
    """Whether to publish also the merged weights, as a whole model in `merged/`. "auto": yes if the technique can be
    merged, vLLM cannot serve its adapter, and the base model has at most the server's `merged_max_parameters`
    parameters."""
    gguf: Literal["f16", "q8_0"] | None = None
    """Publish also the whole model as a GGUF file, with matrices in 16 or 8 bits."""
    hub: Hub | None = None
    """Push the trained model to a hub after the job has succeeded."""


MAX_INTEGRATIONS = 5
"""Maximum number of a job's `integrations`, as at OpenAI."""

Project = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^/\\#?%:\x00-\x1f]+$")]
"""Name of a project, user or team at Weights & Biases, which refuses the excluded characters."""
Tag = Annotated[str, Field(min_length=1, max_length=64)]


class Wandb(StrictModel):
    project: Project
    """The project that receives the run."""
    name: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Display name of the run; null: the job's id."""
    entity: Project | None = None
    """User or team that owns the project; null: the owner of the operator's key."""
    tags: Annotated[list[Tag], Field(max_length=50)] = Field(default_factory=list)
    """Tags of the run."""


class Integration(StrictModel):
    type: Literal["wandb"]
    wandb: Wandb


Integrations = Annotated[list[Integration], Field(max_length=MAX_INTEGRATIONS)]
