"""The context of one attempt at a job: the claim, the job and its folder, for all functions of the attempt."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from api.records.base_models import BaseModelRow
from api.records.job_queue import Claim
from api.records.jobs import Job
from api.spec.recipe import Recipe
from worker.supervisor.inputs import get_base_model
from worker.supervisor.lease import Heartbeat
from worker.supervisor.node import Node


@dataclass(frozen=True)
class AttemptContext:
    node: Node
    claim: Claim
    job: Job
    """The job as it was when the attempt began."""
    folder: Path
    """The run folder, deleted when the attempt ends."""
    beat: Heartbeat
    """Renews the attempt's lease. Its events `lost` and `pause` are set if the lease is lost or the user requests a
    pause."""

    @cached_property
    def recipe(self) -> Recipe:
        """The job's recipe as its user wrote it, in which no "auto" is replaced yet."""
        return Recipe.model_validate(self.job.recipe)

    @cached_property
    def base(self) -> BaseModelRow:
        """The row of the job's base model. Raise BaseModelGone if the operator has removed it."""
        return get_base_model(self.node, self.job)
