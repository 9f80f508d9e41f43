from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from api.context import Caller, Context
from api.records import events
from api.records.job_queue import Claim
from api.records.jobs import Job
from api.services import base_models, jobs
from api.spec.lifecycle import Stage
from api.spec.recipe import Recipe
from tests.end_to_end.jobs import rows
from tests.factories import a_caller, a_file, the_job
from worker.supervisor.attempt import AttemptContext
from worker.supervisor.lease import Heartbeat
from worker.supervisor.loop import claim_next, run_attempt, work_until_idle
from worker.supervisor.node import Node


@dataclass
class Workshop:
    """A worker's two stages in this process, and a user who submits jobs."""

    context: Context
    caller: Caller
    prepare: Node
    train: Node

    def submit(self, content: bytes | None = None, *, steps: int = 6, **body: Any) -> str:
        file_id = a_file(self.context, self.caller.project_id, rows(12) if content is None else content)
        training = {"max_steps": steps, "precision": "float32"} | body.pop("training", {})
        recipe = Recipe.model_validate({"model": "tiny", "training_file": file_id, "training": training} | body)
        return jobs.submit(self.context, self.caller, recipe).id

    def work(self) -> None:
        """Until nothing waits."""
        work_until_idle(self.prepare)
        work_until_idle(self.train)

    def train_once(self) -> None:
        """One attempt at the best waiting job."""
        work_until_idle(self.prepare)
        with self.train.slots.take() as slot:
            assert slot is not None
            claim = claim_next(self.train, slot)
            assert claim is not None, "nothing waits"
            run_attempt(self.train, claim, slot)

    def job(self, job_id: str) -> Job:
        return the_job(self.context.database, job_id)

    def told(self, job_id: str) -> list[str]:
        """The messages of the job's events, metrics left out, oldest first."""
        with self.context.database.read() as session:
            page = events.page(session, job_id, after=None, limit=1000)
        return [event.message for event in reversed(page.data) if event.type == "message"]


def attempt_at(node: Node, claim: Claim, job: Job, folder: Path, beat: Heartbeat | None = None) -> AttemptContext:
    """An attempt as run_attempt begins it; its heart beats only if the test starts it."""
    return AttemptContext(node, claim, job, folder, beat or Heartbeat(node.context, claim))


OpenWorkshop = Callable[[Context], Workshop]


@pytest.fixture
def open_workshop(tiny_base: Path) -> OpenWorkshop:
    def open_it(context: Context) -> Workshop:
        if not base_models.listed(context):
            base_models.register(context, "tiny", tiny_base)
        prepare, train = Node.open(context, Stage.PREPARE), Node.open(context, Stage.TRAIN)
        return Workshop(context, a_caller(context.database), prepare, train)

    return open_it


@pytest.fixture
def workshop(open_workshop: OpenWorkshop, context: Context) -> Workshop:
    return open_workshop(context)
