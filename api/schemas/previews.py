"""What previews and estimates answer."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel

from api.schemas.common import Memory
from api.schemas.stored import stored


class SequenceObject(BaseModel):
    role: Literal["text", "prompt", "chosen", "rejected"]
    text: str
    """After the template."""
    length: int
    """In tokens, before the cut."""
    cut_at: int | None
    """How many tokens the cut leaves; null if it leaves all."""
    supervised_tokens: int
    """Of those that are left, how many carry loss."""
    tokens: list[int]
    token_texts: list[str]
    """Of each token on its own: where a letter is split over several, each of them shows as �."""
    loss_weights: list[float]
    """Weight in the loss of predicting this token from those before it."""
    spans: list[list[float]]
    """[first token, after the last, weight] of each run that carries loss."""


class RowObject(BaseModel):
    row: int
    line: int
    sequences: list[SequenceObject]
    """One, or two of a pair; none where the row is invalid."""
    label: str | int | float | list[str] | list[int] | None = None
    dropped: bool
    """Training would leave it out."""
    findings: list[Annotated[dict[str, Any], stored("Finding")]]


class PreviewObject(BaseModel):
    object: Literal["fine_tuning.preview"] = "fine_tuning.preview"
    model: str
    training_file: str
    format: str | None
    container: str | None
    max_length: int | None
    """Where rows are cut; null: as long as the longest, within the model's window."""
    rows: list[RowObject]
    findings: list[Annotated[dict[str, Any], stored("Finding")]] = []
    """Of the file as a whole, where all of its rows are shown."""


class Reason(BaseModel):
    code: str
    message: str
    param: str | None = None


class FileCounts(BaseModel):
    rows: int
    sampled_rows: int
    """So many were tokenised; the other numbers conclude from them."""
    kept_rows: int
    truncated_rows: int
    dropped_rows: int
    tokens: int
    """Of one epoch."""
    supervised_tokens: int
    longest: int


class WorkerEstimate(BaseModel):
    device: Literal["cpu", "gpu"]
    precision: str
    gradient_checkpointing: bool
    micro_batch_tokens: int
    memory: Memory
    memory_available: int | None
    fits: bool | None
    """Null where the worker has not said what it has."""
    seconds: int
    """From its start to its end, the time in the queue left out."""
    measured: bool
    """The worker has trained jobs by whose pace this is told; else a guess."""


class EstimateObject(BaseModel):
    object: Literal["fine_tuning.estimate"] = "fine_tuning.estimate"
    allowed: bool
    reasons: list[Reason]
    """Why not."""
    warnings: list[str]
    """What the job would do that may not be expected, such as leaving out experts."""
    model: str
    train: FileCounts | None
    validation: FileCounts | None
    max_length: int | None
    n_epochs: int | None
    batch_size: int | None
    learning_rate: float | None
    total_steps: int | None
    trained_tokens: int | None
    """Of all steps."""
    trained_parameters: int | None
    parameters_exact: bool
    """False for base models that were added before their shapes were noted: add them again."""
    memory: Memory | None
    """On the worker that takes least time, of those where it fits."""
    seconds: int | None
    """There; null if no worker is registered."""
    workers: list[WorkerEstimate]
