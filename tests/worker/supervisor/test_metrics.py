"""A real training that is interrupted, and what a tracker has of it in the end."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from api.records.trackings import ExportTask
from api.settings import Settings
from api.spec.lifecycle import JobStatus
from tests.worker.delivery.trackers.test_tensorboard import read_back
from tests.worker.delivery.trackers.test_wandb import history, offline_folder
from tests.worker.supervisor.conftest import Workshop
from tests.worker.supervisor.test_faults import let_wait_pass
from worker.delivery.deliverer import Deliverer
from worker.delivery.metrics import MetricsExporter
from worker.delivery.trackers import open_trackers


@pytest.fixture
def settings(tmp_path: Path, sqlite_url: str, valkey_url: str) -> Settings:
    trackers: dict[str, Any] = {"wandb_mode": "offline", "tensorboard_dir": tmp_path / "board"}
    return Settings(data_dir=tmp_path / "data", database_url=sqlite_url, broker_url=valkey_url, **trackers)


def test_an_interrupted_job_is_recorded_step_by_step_once(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = workshop.context.settings
    deliverer = Deliverer.open(workshop.context)
    recorders = [MetricsExporter(deliverer, name, each) for name, each in open_trackers(settings).items()]
    integrations = [{"type": "wandb", "wandb": {"project": "tuning"}}]
    job_id = workshop.submit(steps=5, training={"save_every": 2}, integrations=integrations)
    monkeypatch.setenv("ATTUNE_FAIL_AT", "step:4:kill")
    workshop.train_once()
    for recorder in recorders:
        recorder.export_due()
    monkeypatch.delenv("ATTUNE_FAIL_AT")
    let_wait_pass(workshop, job_id)
    workshop.train_once()
    assert workshop.job(job_id).status == JobStatus.SUCCEEDED
    with workshop.context.database.write() as session:
        session.execute(update(ExportTask).values(due_at=0.0))
    for name, each in open_trackers(settings).items():
        MetricsExporter(deliverer, name, each).export_due()
    assert [row["_step"] for row in history(offline_folder(settings, job_id))] == [1, 2, 3, 4, 5]
    assert settings.tensorboard_dir is not None
    written = read_back(settings.tensorboard_dir / job_id)
    assert {step: len(values) for (name, step), values in written.items() if name == "train_loss"} == dict.fromkeys(
        range(1, 6), 1
    )
    assert {"learning_rate", "grad_norm", "tokens_per_second"} <= {name for name, _ in written}
