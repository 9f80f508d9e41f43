"""Pushes of published models to a hub, for jobs that request one.

A push is recorded in the transaction that publishes the model. The operator chooses the hub and the namespace. A failed
push never changes the job's status.
"""

import shutil
from pathlib import Path

import structlog
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils.tqdm import disable_progress_bars
from sqlalchemy.exc import SQLAlchemyError

from api.infra.artifacts import trained_artifacts
from api.records import events, jobs, models, trackings
from api.records.jobs import Job
from api.records.trackings import HUB, ExportTask
from worker.delivery.deliverer import Deliverer

log = structlog.get_logger(__name__)

LEASE_S = 3600
"""Seconds for which a deliverer owns a push. If a large model takes longer, another deliverer may push the same files;
the later commit then changes nothing."""
GIVE_UP_S = 2 * 24 * 3600
"""Seconds for which a failing push is retried."""
EXCLUDED = ("manifest.json", "manifest.sig.json", "logprobs.json")
"""Files of Attune's own, which are not pushed."""


class HubPusher:
    def __init__(self, deliverer: Deliverer) -> None:
        self._deliverer, self._settings = deliverer, deliverer.context.settings
        self._database = deliverer.context.database
        disable_progress_bars()

    def run(self) -> None:
        self._deliverer.repeat("hub", self.push_due, self._settings.track_s)

    def push_due(self) -> None:
        with self._database.read() as session:
            due = trackings.due(session, HUB, self._deliverer.owner)
        for tracking_id in due:
            if self._deliverer.stopping.is_set():
                return
            with self._database.write() as session:
                tracking = trackings.lease(session, tracking_id, HUB, self._deliverer.owner, LEASE_S)
            if tracking is not None:
                self._push(tracking)

    def _push(self, tracking: ExportTask) -> None:
        folder = self._deliverer.folder / f"push-{tracking.job_id}"
        try:
            self._end(tracking, *self._upload(tracking, folder))
        except Exception as error:  # of any kind: the job has succeeded whatever the hub's client raises
            if isinstance(error, SQLAlchemyError):
                raise
            log.warning("push_failed", job_id=tracking.job_id, error=type(error).__name__, status=_status(error))
            self._retry_later(tracking, _status(error))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _upload(self, tracking: ExportTask, folder: Path) -> tuple[str, str]:
        """Push the model. Return the message and level of the event for the job. Raises what the hub's client
        raises."""
        options = tracking.options or {}
        if not self._fetch(tracking.job_id, folder):
            return "Model not pushed to {}: the model was deleted", "info"
        hub = HfApi(endpoint=self._settings.hub_endpoint or None, token=self._settings.hub_token.get_secret_value())
        hub.create_repo(options["repository"], private=options["private"], exist_ok=True)
        if options["private"] and not hub.model_info(options["repository"]).private:
            return "Model not pushed to {}: the repository is public, but the job requests a private one", "warn"
        hub.upload_folder(
            repo_id=options["repository"], folder_path=folder, commit_message=f"Fine-tuned by {tracking.job_id}"
        )
        return "Model pushed to {}", "info"

    def _fetch(self, job_id: str, folder: Path) -> bool:
        """Fetch the trained files into a folder. Return False if the model was deleted."""
        with self._database.read() as session:
            job = session.get_one(Job, job_id)
            model = models.get(session, job.project_id, job.model_id)
        if model is None:
            return False
        folder.mkdir(exist_ok=True)
        for artifact in trained_artifacts(model.artifacts):
            if artifact["name"] not in EXCLUDED:
                path = folder / artifact["name"]
                self._deliverer.context.storage.read_file(artifact["key"], path, sha256=artifact["sha256"])
        return True

    def _end(self, tracking: ExportTask, message: str, level: str = "info") -> None:
        repository = (tracking.options or {})["repository"]
        with self._database.write() as session:
            jobs.lock(session, tracking.job_id)
            trackings.finish(session, tracking.id, self._deliverer.owner)
            events.add_event(session, tracking.job_id, message.format(repository), level=level)

    def _retry_later(self, tracking: ExportTask, status: int | None) -> None:
        answer = "" if status is None else f" (the hub answered {status})"
        with self._database.read() as session:
            expired = trackings.has_passed(session, tracking.created_at + GIVE_UP_S)
        if expired:
            self._end(tracking, "Model not pushed to {}" + answer + ": every attempt failed for two days", level="warn")
            return
        with self._database.write() as session:
            jobs.lock(session, tracking.job_id)
            trackings.record_failure(session, tracking, self._deliverer.owner)
            if tracking.failures == 0:
                repository = (tracking.options or {})["repository"]
                message = f"Model not pushed to {repository}{answer}. The push is retried for two days."
                events.add_event(session, tracking.job_id, message, level="warn")


def _status(error: Exception) -> int | None:
    """Return the HTTP status of the hub's answer; None if there was no answer."""
    response = error.response if isinstance(error, HfHubHTTPError) else None
    return None if response is None else int(response.status_code)
