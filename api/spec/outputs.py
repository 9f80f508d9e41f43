"""In which forms a job publishes its model, besides that in which it was trained."""

from typing import Annotated, Literal

from pydantic import Field

from api.spec.fields import AUTO, Auto, StrictModel

GGUF_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Families whose GGUF files are known to be the model."""


Repository = Annotated[str, Field(max_length=96, pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]


class Hub(StrictModel):
    repository: Repository
    """NAMESPACE/name, in the operator's namespace."""
    private: bool = True
    """Of a repository that the push has to make."""


class Export(StrictModel):
    merged: Auto[bool] = AUTO
    """Publish, beside the adapter, the base's weights with the adapter's added: a whole model, in `merged/`. "auto":
    where the technique allows it and the base is small (the server's `merged_max_parameters`)."""
    gguf: Literal["f16", "q8_0"] | None = None
    """Publish the whole model as a GGUF file, too, its matrices in 16 or in 8 bits."""
    hub: Hub | None = None
    """Push what was trained to a hub, once the job has succeeded."""

    def wants_merged(self, parameters: int, largest: int) -> bool:
        """Whether a technique that merges publishes the whole model. `parameters`: of the base; `largest`: the server's
        `merged_max_parameters`."""
        return parameters <= largest if self.merged == AUTO else self.merged


MAX_INTEGRATIONS = 5
"""OpenAI's limit."""

Project = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^/\\#?%:\x00-\x1f]+$")]
"""Weights & Biases takes no other characters in the name of a project."""
Tag = Annotated[str, Field(min_length=1, max_length=64)]


class Wandb(StrictModel):
    project: Project
    name: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """What the run is shown as; null: the job's id."""
    entity: Project | None = None
    """The user or team that the project belongs to; null: that of the operator's key."""
    tags: Annotated[list[Tag], Field(max_length=50)] = Field(default_factory=list)


class Integration(StrictModel):
    type: Literal["wandb"]
    wandb: Wandb


Integrations = Annotated[list[Integration], Field(max_length=MAX_INTEGRATIONS)]
