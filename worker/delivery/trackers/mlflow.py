"""MLflow: each job is a run of one experiment. A tag with the job's id finds the run again. The server reports which
steps it holds."""

from collections.abc import Iterator, Mapping, Sequence

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from api.settings import Settings
from api.spec.lifecycle import JobStatus
from worker.delivery.trackers.base import MetricPoint, RunInfo

TAG = "attune.job"
BATCH = 1000
"""MLflow's limit of metrics in one request."""
MAX_PARAMETERS = 100
MAX_VALUE_LENGTH = 500
"""Maximum number of characters of a parameter's value."""
ENDS = {JobStatus.SUCCEEDED: "FINISHED", JobStatus.FAILED: "FAILED", JobStatus.CANCELLED: "KILLED"}


class Tracker:
    def __init__(self, uri: str, experiment: str) -> None:
        self._client = MlflowClient(tracking_uri=uri)
        self._experiment = experiment

    def open(self, info: RunInfo) -> "MlflowRun":
        experiment = self._client.get_experiment_by_name(self._experiment)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(self._experiment)
        found = self._client.search_runs([experiment_id], f"tags.`{TAG}` = '{info.job_id}'", max_results=1)
        run_id = found[0].info.run_id if found else self._create(experiment_id, info)
        held = self._client.get_metric_history(run_id, "train_loss")
        return MlflowRun(self._client, run_id, max((metric.step for metric in held), default=0))

    def _create(self, experiment_id: str, info: RunInfo) -> str:
        tags = {TAG: info.job_id, "fine_tuned_model": info.model, "base_model": info.base_model}
        run = self._client.create_run(experiment_id, run_name=info.job_id, tags=tags)
        parameters = [Param(name, value[:MAX_VALUE_LENGTH]) for name, value in _flat(info.config) if value]
        self._client.log_batch(run.info.run_id, params=parameters[:MAX_PARAMETERS])
        return str(run.info.run_id)


class MlflowRun:
    def __init__(self, client: MlflowClient, run_id: str, step: int) -> None:
        self._client, self._run_id = client, run_id
        self.step = step
        self.url = None  # the address may hold the operator's password

    def add(self, points: Sequence[MetricPoint]) -> None:
        """Send all metrics of a step in one request, so that the tracker has all of them if it has train_loss."""
        batch: list[Metric] = []
        for point in points:
            metrics = [Metric(name, value, int(point.at * 1000), point.step) for name, value in point.values.items()]
            if len(batch) + len(metrics) > BATCH:
                self._client.log_batch(self._run_id, metrics=batch)
                batch = []
            batch += metrics
        if batch:
            self._client.log_batch(self._run_id, metrics=batch)

    def close(self, status: JobStatus | None) -> None:
        if status is not None:
            self._client.set_terminated(self._run_id, ENDS[status])


def tracker(settings: Settings) -> Tracker:
    return Tracker(settings.mlflow_tracking_uri.get_secret_value(), settings.mlflow_experiment)


def _flat(config: Mapping[str, object], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        elif value is not None:
            yield f"{before}{name}", str(value)
