"""Statuses of a job and the transitions between them, and the reasons of failures. Pure: no database, no HTTP."""

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
            JobStatus.QUEUED,  # its worker was lost or shut down: the next attempt resumes from the last saved state
        }
    ),
    # A paused stage of a pipeline fails if the stage that it waits for fails.
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED, JobStatus.FAILED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}

FINAL = frozenset(status for status, following in TRANSITIONS.items() if not following)
UNFINISHED = frozenset(JobStatus) - FINAL


class Stage(StrEnum):
    """A stage of work on jobs, with a queue of its own."""

    PREPARE = "prepare"
    TRAIN = "train"

    @property
    def waiting(self) -> JobStatus:
        return JobStatus.VALIDATING_FILES if self is Stage.PREPARE else JobStatus.QUEUED

    @property
    def leased(self) -> JobStatus:
        return JobStatus.VALIDATING_FILES if self is Stage.PREPARE else JobStatus.RUNNING


SAMPLE = "sample"
"""Stage of the sampler, which answers completion requests. The sampler does not use the database."""
BATCH = "batch"
"""Stage of the batch worker, which sends the requests of batches to the samplers (api/batch_worker)."""
EVALUATE = "evaluate"
"""Stage of the evaluation worker, which grades the items of runs of evals (api/eval_worker)."""
DELIVER = "deliver"
"""Stage of the deliverer, which sends webhooks, metrics to trackers, and models to a hub."""


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
    """Maximum number of retries after failures for this reason. The count restarts when the job makes progress. None:
    no limit, because only the infrastructure causes such a failure."""
    code: str
    """The public `error.code`; OpenAI's code if OpenAI has one for this reason."""
    sentence: str
    """The message for users if there is no more precise one."""


FAILURES: dict[FailureReason, FailurePolicy] = {
    FailureReason.INVALID_FILE: FailurePolicy(
        0, "invalid_training_file", "The job failed due to an invalid training file."
    ),
    FailureReason.INVALID_RECIPE: FailurePolicy(
        0, "invalid_recipe", "The job's recipe cannot be trained. Change the named field and create the job again."
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
        "The job's files filled the worker's disk. Choose a smaller base model, save fewer states, or ask the operator "
        "for a larger disk; then create the job again.",
    ),
    FailureReason.STORAGE_UNAVAILABLE: FailurePolicy(
        None, "storage_unavailable", "The object storage could not be reached."
    ),
    FailureReason.WORKER_FAULT: FailurePolicy(
        None, "worker_fault", "The worker could not run the job because of a fault of its own."
    ),
    FailureReason.WORKER_LOST: FailurePolicy(
        5, "worker_lost", "The workers of this job's attempts were lost repeatedly."
    ),
    FailureReason.POISON: FailurePolicy(
        0,
        "poison",
        "The trainer crashed at the same step three times. The data at that step or the recipe is the likely cause.",
    ),
    FailureReason.HUNG: FailurePolicy(2, "hung", "The trainer made no progress and was stopped."),
    FailureReason.DEPENDENCY: FailurePolicy(
        0, "dependency_failed", "An earlier stage of the pipeline, which this stage needs, did not succeed."
    ),
    FailureReason.INTERNAL: FailurePolicy(
        2,
        "internal_error",
        "The job failed because of a fault in Attune. The worker's log has the details under the job's id; "
        "`attune jobs log JOB` may show them, too. Please report them.",
    ),
}

POISON_DEATHS = 3
"""Number of consecutive crashes of the trainer at the same step after which the job itself counts as their cause and
fails (FailureReason.POISON)."""
