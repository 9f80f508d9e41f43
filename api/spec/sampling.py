"""What a sampler is asked for, on both sides of the wall."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from api.spec.fields import StrictModel
from api.spec.techniques import Technique

MAX_CHOICES = 16
"""Answers to one request: its prompts, times n."""


class SamplingRequest(StrictModel):
    """One request, as a sampler's child takes it: OpenAI's two forms in one."""

    messages: list[dict[str, Any]] | None = None
    """A conversation, in the shape that chat templates take; or `prompts`."""
    prompts: list[str | list[int]] | None = None
    """Texts to continue, or their tokens."""
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    """Answers to each prompt."""
    max_tokens: Annotated[int, Field(ge=1)]
    temperature: Annotated[float, Field(ge=0)]
    """0: always the likeliest token."""
    top_p: Annotated[float, Field(gt=0, le=1)]
    seed: int | None = None
    stop: list[str] = Field(default_factory=list)
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    """How many likeliest tokens are told at each place; None: not even the drawn one's log-probability."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.messages is None) == (self.prompts is None):
            raise ValueError("give messages or prompts")
        return self


class SamplerJob(SamplingRequest):
    """… and where the model is, once its files are there."""

    id: str
    base: str
    """Folder of the base model."""
    adapter: str | None = None
    """Folder of what was published on it; for technique full, of the whole model."""
    technique: Technique | None = None
    """How that was trained."""
