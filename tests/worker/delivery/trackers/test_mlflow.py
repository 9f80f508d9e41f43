from pathlib import Path

import pytest

from api.spec.lifecycle import JobStatus
from tests.worker.delivery.trackers.conftest import OpenStudio


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


def test_mlflow_holds_every_step_once_although_the_worker_was_killed(open_studio: OpenStudio, uri: str) -> None:
    from mlflow import MlflowClient  # noqa: PLC0415 (two seconds, which only one test process needs to spend)

    studio = open_studio(mlflow_tracking_uri=uri)
    studio.trained(1, 2)
    studio.recorder("mlflow").export_due()  # and is not heard of again
    studio.trained(3)
    studio.ends(JobStatus.FAILED)
    studio.recorder("mlflow").export_due()
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("attune")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "train_loss")
    assert [(metric.step, metric.value) for metric in history] == [(step, 1 / step) for step in (1, 2, 3)]
    assert run.info.status == "FAILED"
    assert run.data.tags["attune.job"] == studio.job_id
    assert run.data.params["method.type"] == "supervised"
