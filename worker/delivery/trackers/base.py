"""The interface that each tracker implements."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from api.spec.lifecycle import JobStatus

Config: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class RunInfo:
    """A job's fields that are sent to a tracker."""

    job_id: str
    number: int
    """Number of this run among the job's runs at the same tracker, from 0."""
    model: str
    base_model: str
    config: Config
    """The resolved recipe."""
    options: Config
    """The job's options for this tracker (api.spec.outputs)."""


@dataclass(frozen=True)
class MetricPoint:
    """One step's metrics."""

    step: int
    at: float
    """Unix seconds."""
    values: dict[str, float]


class Run(Protocol):
    """A job's record at a tracker, open for writing. Its methods may raise whatever the tracker's library raises."""

    step: int
    """The last step that the tracker holds, including steps of earlier attempts. Only later steps are added."""
    url: str | None
    """The run's page for users, without credentials; None if there is none."""

    def add(self, points: Sequence[MetricPoint]) -> None:
        """Add the points, which are in ascending order of their steps."""

    def close(self, status: JobStatus | None) -> None:
        """Close the run. `status`: the status in which the job has ended; None: it has not ended, and the run may be
        opened again."""


class Tracker(Protocol):
    def open(self, info: RunInfo) -> Run:
        """Open the job's run. Create it if no deliverer has created it before."""


def numbers(metrics: Mapping[str, object]) -> dict[str, float]:
    """Return the metrics that can be plotted. NaN, which is stored as null, is left out."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if name not in ("step", "total_steps") and isinstance(value, (int, float)) and not isinstance(value, bool)
    }
