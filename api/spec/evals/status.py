"""Statuses of a run of an eval, and those of its items."""

from enum import StrEnum


class RunStatus(StrEnum):
    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"
    DELETING = "deleting"
    """A user has deleted the run. No call returns the run any more, and a worker deletes its items."""


TRANSITIONS: dict[RunStatus, frozenset[RunStatus]] = {
    RunStatus.QUEUED: frozenset(
        {RunStatus.IN_PROGRESS, RunStatus.FAILED, RunStatus.CANCELED, RunStatus.DELETING},
    ),
    RunStatus.IN_PROGRESS: frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELED, RunStatus.DELETING}),
    RunStatus.COMPLETED: frozenset({RunStatus.DELETING}),
    RunStatus.FAILED: frozenset({RunStatus.DELETING}),
    RunStatus.CANCELED: frozenset({RunStatus.DELETING}),
    RunStatus.DELETING: frozenset(),
}

UNFINISHED = (RunStatus.QUEUED, RunStatus.IN_PROGRESS)

EVENTS = {
    RunStatus.COMPLETED: "eval.run.succeeded",
    RunStatus.FAILED: "eval.run.failed",
    RunStatus.CANCELED: "eval.run.canceled",
}
"""Type of the webhook event that is sent when a run ends with this status."""


class ItemStatus(StrEnum):
    PASSED = "pass"
    """The item passes all criteria."""
    FAILED = "fail"
    """The item fails a criterion."""
    ERRORED = "error"
    """No answer could be sampled for the item, or a criterion could not grade it."""
