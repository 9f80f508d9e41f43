"""Request and reply of `python -m worker.score_files`, which scores rows with model files.

The trainer scores the files that it is about to publish; `attune adapters verify` scores files that were published.
Each of them compares the outputs in the reply with the expected ones itself. logprobs.json holds the expected outputs.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from api.spec.lifecycle import FailureReason
from api.spec.resolve import ResolvedRecipe


class _Message(BaseModel):
    # A broken model may output NaN, which must reach the comparison.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class ModelFiles(_Message):
    folder: str
    """The published folder."""
    base: str | None = None
    """Folder of the base model that the adapter is loaded on; None if `folder` holds a whole model."""
    recipe: ResolvedRecipe
    """The recipe that the files were trained with. It names the technique, the method and the precision."""


class ScoringRequest(_Message):
    models: list[ModelFiles]
    rows: list[list[int]]
    """The rows to score, as token ids."""
    device: str | None = None
    """torch's name of the device. None: a GPU if there is one, else the CPU."""


class ScoringResult(_Message):
    outputs: list[list[list[float]]]
    """For each model and row: the log-probability of each token after the first, in nats; or, for classifiers and
    reward models, the row's scores."""
    device: str
    """Device on which the models ran: cpu or cuda."""
    peak_bytes: int
    """Peak memory of the program while it loaded and scored the models, in bytes."""


class ScoringFailure(_Message):
    """The reply if the files could not be loaded or scored."""

    reason: FailureReason
    message: str
    """A sentence for the user."""


SCORING_REPLY: TypeAdapter[ScoringResult | ScoringFailure] = TypeAdapter(ScoringResult | ScoringFailure)
"""The type of the reply, which the program prints as JSON in its last line on standard output."""


Tolerance = dict[Literal["greatest", "mean"], float]
"""Maximum differences between two sets of outputs, in nats or in units of a score: `greatest` for each single output,
`mean` on average over all outputs."""


class RecordedRow(BaseModel):
    tokens: list[int]
    logprobs: list[float] | None = None
    """Log-probability of each token after the first, in nats. None for classifiers and reward models."""
    scores: list[float] | None = None
    """The scores of a classifier or a reward model for the row. None for language models."""


class RecordedOutputs(BaseModel):
    """logprobs.json: the trained model's outputs on a few rows of its data."""

    precision: str
    tolerance: Tolerance
    """How closely the published files must match the outputs on any machine."""
    rows: list[RecordedRow]
