"""How often a run is opened and how much is sent at once, with a tracker that keeps everything in memory."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from api.records import events
from api.records.trackings import ExportTask
from api.spec.lifecycle import JobStatus
from tests.worker.delivery.trackers.conftest import OpenStudio, Studio
from worker.delivery.metrics import MetricsExporter
from worker.delivery.trackers.base import MetricPoint, RunInfo


class MemoryTracker:
    """Forgets a run when it is opened again, as a folder of event files does."""

    def __init__(self, before_add: Callable[[], Any] = lambda: None) -> None:
        self.before_add = before_add
        self.step = 0
        self.url: str | None = None
        self.opened: list[str] = []
        self.steps: list[list[int]] = []
        self.closed: list[JobStatus | None] = []

    def open(self, info: RunInfo) -> "MemoryTracker":
        self.opened.append(info.job_id)
        self.step, self.steps = 0, []
        return self

    def add(self, points: Sequence[MetricPoint]) -> None:
        self.before_add()
        self.steps.append([point.step for point in points])

    def close(self, status: JobStatus | None) -> None:
        self.closed.append(status)


@pytest.fixture
def studio(open_studio: OpenStudio, tmp_path: Path) -> Studio:
    return open_studio(tensorboard_dir=tmp_path / "board")


def exporter(studio: Studio, tracker: MemoryTracker) -> MetricsExporter:
    return MetricsExporter(studio.deliverer, "tensorboard", tracker)


def export_later(studio: Studio, exporter: MetricsExporter) -> None:
    studio.no_waiting()
    exporter.export_due()


def test_a_paused_jobs_run_is_opened_only_for_new_metrics(studio: Studio) -> None:
    tracker = MemoryTracker()
    recorder = exporter(studio, tracker)
    studio.trained(1, 2)
    studio.ends(JobStatus.PAUSED)
    for _ in range(3):
        export_later(studio, recorder)
    assert (len(tracker.opened), tracker.steps, tracker.closed) == (1, [[1, 2]], [None])
    studio.trained(3)
    export_later(studio, recorder)
    assert (len(tracker.opened), tracker.steps) == (2, [[1, 2, 3]])
    studio.ends(JobStatus.CANCELLED)
    export_later(studio, recorder)
    assert tracker.closed[-1] is JobStatus.CANCELLED


def test_a_long_backlog_is_sent_in_parts_that_each_renew_the_lease(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "BATCH", 2)
    leases: list[float | None] = []

    def note_lease() -> None:
        with studio.context.database.write() as session:
            leases.append(session.query(ExportTask.lease_until).scalar())
            session.execute(update(ExportTask).values(lease_until=0.0))

    tracker = MemoryTracker(note_lease)
    recorder = exporter(studio, tracker)
    studio.trained(1, 2, 3, 4, 5)
    studio.ends()
    assert [recorder.export_due() for _ in range(3)] == [True, True, False]
    assert (tracker.steps, len(tracker.opened), tracker.closed) == ([[1, 2], [3, 4], [5]], 1, [JobStatus.SUCCEEDED])
    assert all(leases), leases
