"""A job whose metrics are in the database, and a recorder beside it; the trackers are real, the training is not."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from api.context import Context
from api.records import events, jobs, trackings
from api.records.trackings import ExportTask
from api.services.admission import plan_trackings
from api.settings import Settings
from api.spec.lifecycle import JobStatus
from api.spec.recipe import Recipe
from tests.factories import a_base_model, a_job, a_project
from worker.delivery.deliverer import Deliverer
from worker.delivery.metrics import MetricsExporter
from worker.delivery.trackers import open_trackers


class Studio:
    def __init__(self, settings: Settings, **recipe: Any) -> None:
        self.settings = settings
        self.context = Context.open(settings)
        project = a_project(self.context.database)
        a_base_model(self.context.database)
        asked = Recipe.model_validate({"model": "tiny", "training_file": "file-none"} | recipe)
        self.job_id = a_job(
            self.context.database,
            project,
            JobStatus.RUNNING,
            recipe=asked.model_dump(mode="json"),
            resolved={"learning_rate": 0.001, "method": {"type": "supervised"}},
        )
        self.deliverer = Deliverer.open(self.context)
        with self.context.database.write() as session:
            plan_trackings(self.context, session, self.job_id, asked)
            trackings.make_due(session, self.job_id)

    def trained(self, *steps: int) -> None:
        """The trainer reported these steps, and the supervisor wrote them down."""
        with self.context.database.write() as session:
            for step in steps:
                data = {"step": step, "total_steps": 9, "train_loss": 1 / step, "valid_loss": None}
                events.add_event(session, self.job_id, f"Step {step}", type="metrics", data=data)

    def ends(self, status: JobStatus = JobStatus.SUCCEEDED) -> None:
        with self.context.database.write() as session:
            jobs.transition(session, self.job_id, status, message="It has ended")

    def recorder(self, name: str) -> MetricsExporter:
        """Of a deliverer that has just been started."""
        return MetricsExporter(self.deliverer, name, open_trackers(self.settings)[name])

    def no_waiting(self) -> None:
        """The back-off is over."""
        with self.context.database.write() as session:
            session.execute(update(ExportTask).where(ExportTask.due_at.is_not(None)).values(due_at=0.0))

    def told(self) -> list[str]:
        with self.context.database.read() as session:
            page = events.page(session, self.job_id, after=None, limit=100)
        return [event.message for event in reversed(page.data) if event.type == "message"]


OpenStudio = Callable[..., Studio]


@pytest.fixture
def open_studio(tmp_path: Path, sqlite_url: str) -> Iterator[OpenStudio]:
    opened: list[Studio] = []

    def open_it(*, recipe: dict[str, Any] | None = None, **settings: Any) -> Studio:
        known: dict[str, Any] = {"data_dir": tmp_path / "data", "database_url": sqlite_url, "track_s": 1e-6}
        opened.append(Studio(Settings(**known | settings), **(recipe or {})))
        return opened[-1]

    yield open_it
    for studio in opened:
        studio.context.database.dispose()
