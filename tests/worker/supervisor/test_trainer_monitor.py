"""A trainer whose storage is away, or whose worker shuts down."""

from pathlib import Path
from typing import Any

import pytest

from api.infra.storage import StorageUnavailable
from api.records import job_queue
from api.records.jobs import StaleFence
from api.spec.lifecycle import FailureReason, JobStatus, Stage
from tests.factories import a_job, a_project
from tests.worker.supervisor.clock import Clock
from tests.worker.supervisor.conftest import Workshop, attempt_at
from worker.shared.reports import CheckpointReport, StateReport, StoppedReport
from worker.supervisor import trainer_monitor, uploads
from worker.supervisor.attempt import AttemptContext
from worker.supervisor.faults import AttemptFailed
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


class Storing:
    """Takes the place of the storage of states and checkpoints, which is away as long as `away` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.away = False
        self.stored: list[str] = []
        self.tried = 0
        monkeypatch.setattr(uploads, "store_checkpoint", lambda _, report, __: self._store(f"checkpoint {report.step}"))
        monkeypatch.setattr(uploads, "store_state", lambda _, step, __: self._store(f"state {step}"))
        monkeypatch.setattr(trainer_monitor, "RETRY_S", 0)

    def _store(self, name: str) -> None:
        self.tried += 1
        if self.away:
            raise StorageUnavailable("503")
        self.stored.append(name)


@pytest.fixture
def storing(monkeypatch: pytest.MonkeyPatch) -> Storing:
    return Storing(monkeypatch)


def report(monitor: TrainerMonitor, folder: Path, *, state: int | None = None, checkpoint: int | None = None) -> None:
    if checkpoint is not None:
        monitor._handle(CheckpointReport(step=checkpoint, path=f"out/{checkpoint}", metrics={}))
    if state is not None:
        (folder / f"out/{state}").mkdir(parents=True)
        monitor._handle(StateReport(step=state, path=f"out/{state}"))


def test_during_an_outage_checkpoints_wait_behind_the_newest_state(
    attempt: AttemptContext, trainer: Any, storing: Storing
) -> None:
    monitor = TrainerMonitor(attempt, trainer)
    with monitor._uploads:
        report(monitor, attempt.folder, checkpoint=4, state=4)
        monitor._finish_uploads()
        storing.away = True
        report(monitor, attempt.folder, checkpoint=8, state=8)
        monitor._uploads._try()  # one try, which waits for nothing
        report(monitor, attempt.folder, checkpoint=12, state=12)
        storing.away = False
    assert storing.stored == ["checkpoint 4", "state 4", "state 12", "checkpoint 8", "checkpoint 12"]
    assert storing.tried == 6


def test_an_attempt_that_fails_in_an_outage_names_its_lost_checkpoints(
    attempt: AttemptContext, trainer: Any, storing: Storing, workshop: Workshop
) -> None:
    storing.away = True
    monitor = TrainerMonitor(attempt, trainer)

    def fail() -> None:
        with monitor._uploads:
            report(monitor, attempt.folder, checkpoint=4)
            report(monitor, attempt.folder, checkpoint=8)
            raise AttemptFailed(FailureReason.DIVERGED)

    with pytest.raises(AttemptFailed):
        fail()
    assert storing.tried == 1
    assert [message for message in workshop.told(attempt.job.id) if "4, 8" in message]


def test_an_ended_trainer_waits_for_the_storage_for_a_limited_time(
    attempt: AttemptContext, trainer: Any, storing: Storing, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()

    def pass_a_second(_: float) -> None:
        clock.now += 1

    monkeypatch.setattr(trainer_monitor, "PUBLISH_PATIENCE_S", 3)
    monkeypatch.setattr("worker.supervisor.trainer_monitor.time.monotonic", clock)
    monkeypatch.setattr(attempt.beat.lost, "wait", pass_a_second)
    monitor = TrainerMonitor(attempt, trainer)
    storing.away = True
    for step in (4, 8, 12):
        report(monitor, attempt.folder, checkpoint=step)
    with pytest.raises(StorageUnavailable):
        monitor._handle(StoppedReport(step=12))
    assert storing.tried == 5, "all checkpoints together, not each"


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
