"""The filters of a list of jobs."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class JobFilters:
    """The jobs that pass all filters that are not None."""

    status: str | None = None
    method: str | None = None
    model: str | None = None
    """The base model at the root of the lineage, or the fine-tuned model or checkpoint that the job continues."""
    search: str | None = None
    """Text in the id, in the name of the model that the job begins from, or in the id of the model that it publishes,
    which contains the suffix."""
    metadata: Mapping[str, str] | None = None
    """Pairs that the job has. An empty dict: jobs without metadata."""
    created_after: int | None = None
    """Unix time of the earliest creation."""
    created_before: int | None = None
    """Unix time that the creation precedes."""


EVERY_JOB = JobFilters()
