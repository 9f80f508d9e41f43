"""What every tracker is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from api.spec.lifecycle import JobStatus


@dataclass(frozen=True)
class RunInfo:
    """A job, as far as a tracker is told of it."""

    job_id: str
    number: int
    """Of several runs of this job at the same tracker."""
    model: str
    base_model: str
    config: dict[str, Any]
    """The resolved recipe."""
    options: dict[str, Any]
    """What the job said of this tracker."""


@dataclass(frozen=True)
class MetricPoint:
    """One step's metrics."""

    step: int
    at: float
    """Unix seconds."""
    values: dict[str, float]


class Run(Protocol):
    """One job's record at a tracker, open to be added to. Any method may raise whatever its library raises."""

    step: int
    """The last step that the tracker holds, and when it was opened, of attempts before: only later ones are added."""
    url: str | None
    """Where a person can look at it. Without credentials: users read it."""

    def add(self, points: Sequence[MetricPoint]) -> None:
        """In the order of their steps."""

    def close(self, status: JobStatus | None) -> None:
        """With the status that the job has ended in. None: it has not, and may be opened again."""


class Tracker(Protocol):
    def open(self, about: RunInfo) -> Run:
        """The job's run: a new one, or the one that was made before, by whichever worker."""


def numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """What of a step's metrics is a curve. The pipe has no NaN: such a value is null, and left out."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if name not in ("step", "total_steps") and isinstance(value, (int, float)) and not isinstance(value, bool)
    }
