"""A trainer whose storage is away, or whose worker shuts down."""

from pathlib import Path
from typing import Any

import pytest

from api.infra.storage import StorageUnavailable
from api.records import job_queue
from api.records.jobs import StaleFence
from api.spec.lifecycle import JobStatus, Stage
from tests.factories import a_job, a_project
from tests.worker.supervisor.clock import Clock
from tests.worker.supervisor.conftest import Workshop, attempt_at
from worker.shared.reports import CheckpointReport
from worker.supervisor import trainer_monitor
from worker.supervisor.attempt import AttemptContext
from worker.supervisor.trainer_monitor import TrainerMonitor

pytestmark = pytest.mark.parametrize("settings", ["embedded"], indirect=True)


class Trainer:
    """Busy with a long step, but alive."""

    silent_s = 0.0

    def __init__(self) -> None:
        self.commands: list[str] = []

    def command(self, *, cmd: str) -> None:
        self.commands.append(cmd)


@pytest.fixture
def trainer() -> Any:
    return Trainer()


@pytest.fixture
def attempt(workshop: Workshop, tmp_path: Path) -> AttemptContext:
    database = workshop.context.database
    job_id = a_job(database, a_project(database))
    with database.write() as session:
        claim = job_queue.claim(session, Stage.TRAIN, owner="worker", lease_s=60, gpus=0)
    assert claim is not None
    return attempt_at(workshop.train, claim, workshop.job(job_id), tmp_path)


def test_a_checkpoint_is_stored_after_an_outage(
    attempt: AttemptContext, trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def store(attempt: AttemptContext, report: CheckpointReport, folder: Path) -> None:
        tried.append(report.step)
        if len(tried) < 3:
            raise StorageUnavailable("503")

    monkeypatch.setattr(trainer_monitor, "store_checkpoint", store)
    monkeypatch.setattr(trainer_monitor, "RETRY_S", 0)
    monitor = TrainerMonitor(attempt, trainer)
    with monitor._uploads:
        monitor._handle(CheckpointReport(step=4, path="out/checkpoints/step-000004", metrics={}))
    assert tried == [4, 4, 4]


def test_a_shutdown_long_after_a_pause_leaves_the_trainer_its_time(
    attempt: AttemptContext, trainer: Any, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, grace_s = Clock(), workshop.context.settings.stop_grace_s
    monkeypatch.setattr("worker.supervisor.trainer_monitor.time.monotonic", clock)
    monitor = TrainerMonitor(attempt, trainer)
    attempt.beat.pause.set()
    monitor._check()
    clock.now += 10 * grace_s
    workshop.train.stopping.set()
    monitor._check()
    clock.now += grace_s
    monitor._check()
    clock.now += 1
    with pytest.raises(StaleFence):
        monitor._check()
    assert trainer.commands == ["pause"]
    assert workshop.job(attempt.job.id).status == JobStatus.QUEUED
