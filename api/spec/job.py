"""The JSON of a job's progress and error, and of a pipeline's stages, in their rows."""

from typing import TypedDict


class JobProgress(TypedDict, total=False):
    """Progress of a training; empty before it begins."""

    step: int
    """Number of finished optimizer steps."""
    total_steps: int
    phase: str
    """Current phase of the trainer."""


class JobError(TypedDict):
    """The error of a failed job, in OpenAI's form."""

    code: str
    message: str
    param: str | None
    """Field of the recipe that caused the failure."""


class PipelineStage(TypedDict):
    """A stage of a pipeline and its job."""

    name: str
    job_id: str
