"""The stored JSON of a job's recipe, progress and error, and of a pipeline's stages."""

from typing import NotRequired, TypedDict

from api.spec.fields import JsonObject


class StoredRecipe(TypedDict):
    """The requested recipe (api.spec.recipe.Recipe). The objects in it may have fields of older releases."""

    model: str
    training_file: str
    validation_file: str | None
    suffix: str | None
    seed: int | None
    metadata: dict[str, str] | None
    integrations: list[JsonObject] | None
    hyperparameters: JsonObject | None
    method: JsonObject
    technique: JsonObject
    training: JsonObject
    export: NotRequired[JsonObject]
    """Missing in jobs of older releases."""
    resources: JsonObject
    priority: int
    evals: NotRequired[list[JsonObject] | None]
    """Missing in jobs of older releases."""


class JobProgress(TypedDict, total=False):
    """Progress of a training; empty before it begins."""

    step: int
    """Number of finished optimizer steps."""
    total_steps: int
    phase: str
    """Current phase: loading, training, evaluating, saving, comparing, exporting, verifying or storing."""
    learning_rate: float | None
    """Learning rate of the last step."""


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
