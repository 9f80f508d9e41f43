"""The reports that a child process writes to its pipe: one JSON object a line, whose `type` names the report.

The table in docs/internals/wall.md has the trainer's reports, docs/internals/sampling.md the sampler's.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias, get_args

import msgspec

from api.spec.graders.base import Question
from api.spec.lifecycle import FailureReason

Metrics: TypeAlias = dict[str, Any]
"""A step's metrics by name. Values are numbers; a method may add lists, such as a confusion matrix."""
Json: TypeAlias = dict[str, Any]


class Report(msgspec.Struct, kw_only=True, tag_field="type"):
    """The base class of all reports. The value of `type` in JSON is the class's tag."""


class AliveReport(Report, tag="alive"):
    """A sign of life between other reports."""


class UnknownReport(Report, tag="unknown"):
    """A report of a type that this version does not know. It still is a sign of life."""


class PhaseReport(Report, tag="phase"):
    phase: str
    """loading, training, evaluating, saving, comparing, exporting or verifying."""


class WarningReport(Report, tag="warning"):
    message: str
    """A message for the user."""


class MetricsReport(Report, tag="metrics"):
    """A finished step. In the JSON object, the metrics are fields beside `type`."""

    step: int
    total_steps: int
    tokens: int
    train_loss: float | None
    """None if it is not finite."""
    tokens_per_second: float | None = None
    metrics: Metrics = {}
    """All of the step's metrics, the fields above included."""

    @classmethod
    def of(cls, metrics: Metrics) -> "MetricsReport":
        """Return the report of a step's metrics. Raise msgspec.ValidationError if a field is missing or has another
        type."""
        return msgspec.convert({**metrics, "type": "metrics", "metrics": metrics}, cls)


class RolloutSample(msgspec.Struct, kw_only=True):
    prompt: str
    answer: str
    reward: float | None
    """None if it is not finite."""


class SamplesReport(Report, tag="samples"):
    """Some of a step's rollouts."""

    step: int
    samples: list[RolloutSample]


class QuestionReport(Report, tag="question"):
    """A grader's question to a chat model. The supervisor answers with a command `verdict`."""

    question: Question


class StateReport(Report, tag="state"):
    """A saved state, from which a later attempt resumes."""

    step: int
    path: str
    """The state's folder, relative to the run folder."""


class CheckpointReport(Report, tag="checkpoint"):
    """An exported checkpoint, with the adapter or the whole model of an intermediate step."""

    step: int
    path: str
    """The checkpoint's folder, relative to the run folder."""
    metrics: Metrics


class DoneReport(Report, tag="done"):
    """The last report of a successful training."""

    step: int
    path: str
    """The folder of the model, relative to the run folder."""
    trained_tokens: int
    best_step: int | None = None
    """The step with the lowest validation loss, if there was a validation."""
    evaluation: Json | None = None
    """An api.spec.evaluation.Evaluation as JSON."""
    peak_bytes: int | None = None
    peaks: dict[str, int] | None = None
    """Peak memory of each phase in bytes."""
    processor_s: dict[str, float] | None = None
    """Processor time of each phase in seconds."""
    device: str | None = None
    """cpu or cuda."""


class StoppedReport(Report, tag="stopped"):
    """The last report of a training that received a stop or pause command and saved a state."""

    step: int


class ErrorReport(Report, tag="error"):
    """The last report of a failed training."""

    reason: FailureReason
    message: str | None = None
    """A message for the user. None: the sentence that FAILURES has for the reason."""


class ProgressReport(Report, tag="progress"):
    """How many rows of a file have been read."""

    file: str
    """train, validation, or input."""
    rows: int


class SamplerReport(Report):
    """A report about one sampling request."""

    id: str
    """The request's id."""


class StartedReport(SamplerReport, tag="started"):
    prompt_tokens: int


class TokenLogprob(msgspec.Struct, kw_only=True):
    token: str
    bytes: list[int]
    logprob: float | None
    """None for the first token of a prompt, which nothing predicts."""
    top: list["TopLogprob"] | None
    """The likeliest tokens at this position."""
    offset: int
    """Position in the answer's text where the token begins, in characters."""


class TopLogprob(msgspec.Struct, kw_only=True):
    token: str
    bytes: list[int]
    logprob: float


class TextReport(SamplerReport, tag="text"):
    """Text that continues an answer."""

    index: int
    """The answer's number, from 0."""
    text: str
    tokens: list[TokenLogprob] | None
    """None: the request asks for no log-probabilities."""


class ReasoningReport(SamplerReport, tag="reasoning"):
    """Reasoning that continues an answer, before its text."""

    index: int
    """The answer's number."""
    text: str


class ToolCallReport(SamplerReport, tag="tool_call"):
    """A complete call of a function."""

    index: int
    """The answer's number."""
    number: int
    """The call's number in the answer, from 0."""
    call_id: str
    name: str
    arguments: str
    """JSON of an object."""


class FinishedReport(SamplerReport, tag="finished"):
    """The end of one answer."""

    index: int
    reason: str
    """stop, length or tool_calls."""
    tokens: int
    reasoning_tokens: int = 0
    """Number of the tokens that belong to the reasoning."""


class CompleteReport(SamplerReport, tag="done"):
    """All answers of the request are complete. This report and the reports below end a request."""


class RefusedReport(SamplerReport, tag="refused"):
    """The request is invalid for this model."""

    message: str
    param: str
    code: str


class CancelledReport(SamplerReport, tag="cancelled"):
    """The request was cancelled."""


class FailedReport(SamplerReport, tag="failed"):
    reason: str
    message: str | None


class LostReport(SamplerReport, tag="lost"):
    """The sampler's child process ended before the answer was complete. The supervisor writes this report."""


TrainerReport: TypeAlias = (
    AliveReport
    | PhaseReport
    | WarningReport
    | MetricsReport
    | SamplesReport
    | QuestionReport
    | StateReport
    | CheckpointReport
    | DoneReport
    | StoppedReport
    | ErrorReport
    | ProgressReport
)
"""Reports of the trainer, and of the programs that read rows."""
SamplingReport: TypeAlias = (
    StartedReport
    | TextReport
    | ReasoningReport
    | ToolCallReport
    | FinishedReport
    | CompleteReport
    | RefusedReport
    | CancelledReport
    | FailedReport
    | LostReport
)
"""Reports of the sampler."""

LAST_REPORTS = (CompleteReport, RefusedReport, CancelledReport, FailedReport)
"""The child's reports that end a sampling request."""

Kinds: TypeAlias = Mapping[str, type[Report]]
"""Classes of reports by their `type`."""


def _kinds(union: object) -> Kinds:
    return {str(report.__struct_config__.tag): report for report in get_args(union)}


TRAINER_REPORTS = _kinds(TrainerReport)
SAMPLING_REPORTS = _kinds(SamplingReport)


def as_dict(report: Report) -> Json:
    """Return the report's JSON object."""
    if isinstance(report, MetricsReport):
        return {"type": "metrics", **report.metrics}
    fields: Json = msgspec.to_builtins(report, enc_hook=_plain)
    return fields


def encode(report: Report) -> bytes:
    """Return the report as one line. JSON has no NaN and no infinity: they become null."""
    return msgspec.json.encode(as_dict(report), enc_hook=_plain) + b"\n"


def decode(line: bytes, kinds: Kinds) -> Report:
    """Return the report in one line; UnknownReport if its type is not in `kinds`. Raise msgspec.DecodeError or
    RecursionError if the line is not a report."""
    tag = msgspec.json.decode(line, type=_Tag).type
    if tag not in kinds:
        return UnknownReport()
    if kinds[tag] is MetricsReport:
        fields = msgspec.json.decode(line, type=Metrics)
        return MetricsReport.of({name: value for name, value in fields.items() if name != "type"})
    return msgspec.json.decode(line, type=kinds[tag])


class _Tag(msgspec.Struct):
    type: str


def _plain(value: object) -> float:
    """Convert numpy's float64, a subclass of float that msgspec does not encode itself."""
    if isinstance(value, float):
        return float(value)
    raise TypeError(f"a report holds a {type(value).__name__}, which has no form in JSON")
