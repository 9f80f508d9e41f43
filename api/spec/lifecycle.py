"""What a job may become, and why it may fail. Pure: no database, no HTTP."""

from dataclasses import dataclass
from enum import StrEnum


class JobStatus(StrEnum):
    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return not TRANSITIONS[self]


TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.VALIDATING_FILES: frozenset({JobStatus.QUEUED, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.CANCELLED, JobStatus.FAILED}),
    JobStatus.RUNNING: frozenset(
        {
            JobStatus.SUCCEEDED,
            JobStatus.FAILED,
            JobStatus.CANCELLED,
            JobStatus.PAUSED,
            JobStatus.QUEUED,  # its worker was lost or asked to stop: another attempt goes on from the last state
        }
    ),
    # A paused stage of a pipeline fails with the stage that it waits for.
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED, JobStatus.FAILED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}

FINAL = frozenset(status for status, following in TRANSITIONS.items() if not following)


class Stage(StrEnum):
    """A queue, and what a worker's slot does for the jobs that wait in it."""

    PREPARE = "prepare"
    TRAIN = "train"

    @property
    def waiting(self) -> JobStatus:
        return JobStatus.VALIDATING_FILES if self is Stage.PREPARE else JobStatus.QUEUED

    @property
    def leased(self) -> JobStatus:
        return JobStatus.VALIDATING_FILES if self is Stage.PREPARE else JobStatus.RUNNING


SAMPLE = "sample"
"""What a third kind of worker does, for requests instead of jobs: nothing of it is in the database."""
DELIVER = "deliver"
"""What a fourth one does: it tells webhooks, trackers and hubs what has happened."""


class FailureReason(StrEnum):
    INVALID_FILE = "invalid_file"
    INVALID_RECIPE = "invalid_recipe"
    OUT_OF_MEMORY = "out_of_memory"
    DIVERGED = "diverged"
    DISK_FULL = "disk_full"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    WORKER_FAULT = "worker_fault"
    WORKER_LOST = "worker_lost"
    POISON = "poison"
    HUNG = "hung"
    DEPENDENCY = "dependency"
    INTERNAL = "internal"


@dataclass(frozen=True)
class FailurePolicy:
    retries: int | None
    """Further attempts after one that ended so, counted per reason and job, and anew after progress. None: no limit,
    because the infrastructure is at fault and never the job."""
    code: str
    """The public `error.code`; OpenAI's where it has one."""
    sentence: str
    """What a user reads when nothing more precise is known."""


FAILURES: dict[FailureReason, FailurePolicy] = {
    FailureReason.INVALID_FILE: FailurePolicy(
        0, "invalid_training_file", "The job failed due to an invalid training file."
    ),
    FailureReason.INVALID_RECIPE: FailurePolicy(
        0, "invalid_recipe", "The job asks for something that cannot be trained. Change the named field and try again."
    ),
    FailureReason.OUT_OF_MEMORY: FailurePolicy(
        3,
        "out_of_memory",
        "Training ran out of memory. Lower training.max_length, or choose a smaller base model or technique.",
    ),
    FailureReason.DIVERGED: FailurePolicy(
        0, "diverged", "The loss diverged, so nothing was published. Try a lower learning rate."
    ),
    FailureReason.DISK_FULL: FailurePolicy(
        3,
        "disk_full",
        "The job's own files filled the worker's disk. Choose a smaller base model or save fewer states, or have the "
        "operator give the worker a larger disk; then create the job again.",
    ),
    FailureReason.STORAGE_UNAVAILABLE: FailurePolicy(
        None, "storage_unavailable", "The object storage could not be reached."
    ),
    FailureReason.WORKER_FAULT: FailurePolicy(
        None, "worker_fault", "The worker could not run the job, for reasons of its own."
    ),
    FailureReason.WORKER_LOST: FailurePolicy(
        5, "worker_lost", "The worker was lost again and again while it trained this job."
    ),
    FailureReason.POISON: FailurePolicy(
        0, "poison", "The trainer died at the same step three times. The data at that step, or the recipe, kills it."
    ),
    FailureReason.HUNG: FailurePolicy(2, "hung", "The trainer stopped making progress and was ended."),
    FailureReason.DEPENDENCY: FailurePolicy(
        0, "dependency_failed", "A stage of the pipeline that this one needs did not succeed."
    ),
    FailureReason.INTERNAL: FailurePolicy(
        2, "internal_error", "Something unexpected went wrong on the server. The operator can find it in the log."
    ),
}

POISON_DEATHS = 3
"""As many deaths of the trainer without a step of progress between them make a job poison."""
