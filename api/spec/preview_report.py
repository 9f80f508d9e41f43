"""The report of `worker.preview` (worker.preview.Report) as JSON, as the API reads it."""

from typing import TypedDict

from api.spec.fields import JsonObject
from api.spec.job import JobError


class Histogram(TypedDict):
    width: int
    rows: list[int]


class Counts(TypedDict):
    """Counts of a file's rows and tokens, as a training would use them (worker.shared.counts.Counts)."""

    rows: int
    sampled: int
    array_rows: int
    width: int
    kept_rows: int
    truncated: int
    dropped: int
    overlong: int
    tokens: int
    supervised_tokens: int
    longest: int
    max_length: int
    lengths: list[int]
    histogram: Histogram
    labels: int | None


class PreviewReport(TypedDict):
    format: str | None
    container: str | None
    rows: list[JsonObject]
    """The shown rows, as JSON of worker.rows.preview_rows.PreviewRow."""
    counts: dict[str, Counts]
    """The counts of the training file ("train") and, if the job has one, of the validation file ("validation")."""
    findings: list[JsonObject]
    """The findings in the file, as JSON of worker.rows.findings.Finding."""
    error: JobError | None
