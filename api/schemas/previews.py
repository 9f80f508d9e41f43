"""Previews of rows and estimates of jobs."""

from typing import Annotated, Literal

from pydantic import BaseModel

from api.schemas.common import Memory
from api.schemas.stored import StoredJson, stored


class SequenceObject(BaseModel):
    role: Literal["text", "prompt", "chosen", "rejected"]
    text: str
    """The rendered text, after the chat template."""
    length: int
    """The number of tokens before truncation."""
    cut_at: int | None
    """The number of tokens after truncation; null if nothing is truncated."""
    supervised_tokens: int
    """The number of remaining tokens with loss."""
    tokens: list[int]
    token_texts: list[str]
    """The text of each token. A character that is split over several tokens shows as � in each of them."""
    loss_weights: list[float]
    """The weight of each token's prediction in the loss."""
    spans: list[list[float]]
    """[start, end, weight] of each run of tokens with loss; the end is exclusive."""


class RowObject(BaseModel):
    row: int
    line: int
    sequences: list[SequenceObject]
    """One sequence, two for a pair, none for an invalid row."""
    label: str | int | float | list[str] | list[int] | None = None
    dropped: bool
    """Whether training leaves the row out."""
    findings: list[Annotated[StoredJson, stored("Finding")]]


class PreviewObject(BaseModel):
    object: Literal["fine_tuning.preview"] = "fine_tuning.preview"
    model: str
    training_file: str
    format: str | None
    container: str | None
    max_length: int | None
    """The maximum length of a row; longer rows are truncated. Null: the length of the longest row, at most the context
    window."""
    rows: list[RowObject]
    findings: list[Annotated[StoredJson, stored("Finding")]] = []
    """Problems of the whole file, if all of its rows are shown."""


class Reason(BaseModel):
    code: str
    message: str
    param: str | None = None


class LengthHistogram(BaseModel):
    """The rows by their length in tokens, before truncation. The length of a pair is that of its longer sequence."""

    width: int
    """Tokens that a bin spans; bin i begins at i · width."""
    rows: list[int]
    """Number of rows in each bin."""


class FileCounts(BaseModel):
    rows: int
    sampled_rows: int
    """Rows that were tokenized. The other numbers are extrapolated from them."""
    kept_rows: int
    truncated_rows: int
    dropped_rows: int
    tokens: int
    """Tokens of one epoch."""
    supervised_tokens: int
    longest: int
    """Tokens of the longest sequence before truncation."""
    lengths: LengthHistogram


class WorkerEstimate(BaseModel):
    device: Literal["cpu", "gpu"]
    precision: str
    gradient_checkpointing: bool
    micro_batch_tokens: int
    memory: Memory
    memory_available: int | None
    fits: bool | None
    """Whether the memory is sufficient; null if the worker's memory is unknown."""
    seconds: int
    """Seconds from the start of the job to its end, without the time in the queue."""
    measured: bool
    """Whether the time is based on jobs that the worker has trained. Otherwise it is a rough guess."""


class EstimateObject(BaseModel):
    object: Literal["fine_tuning.estimate"] = "fine_tuning.estimate"
    allowed: bool
    reasons: list[Reason]
    """The reasons why the job would be refused."""
    warnings: list[str]
    """Possibly unexpected behaviour of the job, for example that experts are not trained."""
    model: str
    train: FileCounts | None
    validation: FileCounts | None
    max_length: int | None
    n_epochs: int | None
    batch_size: int | None
    learning_rate: float | None
    total_steps: int | None
    trained_tokens: int | None
    """Tokens of all training steps."""
    trained_parameters: int | None
    parameters_exact: bool
    """Whether `trained_parameters` is exact. It is not exact for base models that were added by old releases, which did
    not record shapes. Add the base model again for the exact number."""
    memory: Memory | None
    """Peak memory on the fastest worker with sufficient memory."""
    seconds: int | None
    """Training time on the fastest worker with sufficient memory; null if no worker is registered."""
    workers: list[WorkerEstimate]
