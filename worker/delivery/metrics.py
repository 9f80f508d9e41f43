"""The recorder: a deliverer's thread for each tracker, which sends it what the database holds.

The attempt at a job never waits for a tracker, nor does its end: metrics are in the database first, and a job that has
ended is sent to its end later, by any deliverer that has the tracker. What the tracker already has, it tells itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import SQLAlchemyError

from api.infra.trackers import TITLES
from api.records import events, jobs, trackings
from api.records.database import is_outage
from api.records.jobs import Job
from api.records.trackings import ExportTask
from api.spec.lifecycle import FINAL, JobStatus
from worker.delivery.deliverer import Deliverer
from worker.delivery.trackers.base import MetricPoint, Run, RunInfo, Tracker, numbers

log = structlog.get_logger(__name__)

LEASE_S = 300
"""How long a run that a deliverer has open is its own: more than the slowest tracker takes to answer or to refuse."""
IDLE_S = 30
"""Between looks at a job that waits."""
GIVE_UP_S = 2 * 24 * 3600
"""So long after a job's end nothing more is tried."""


@dataclass
class Open:
    run: Run
    seq: int = 0
    """Of the last event that was read."""


class MetricsExporter:
    def __init__(self, deliverer: Deliverer, name: str, tracker: Tracker) -> None:
        self._deliverer, self._name, self._tracker = deliverer, name, tracker
        self._database = deliverer.context.database
        self._open: dict[str, Open] = {}

    def run(self) -> None:
        settings = self._deliverer.context.settings
        self._deliverer.repeat(f"recorder_{self._name}", self.record_due, settings.track_s)
        self.close()

    def record_due(self) -> None:
        """Send what is to be sent now, job by job."""
        with self._database.read() as session:
            due = trackings.due(session, self._name, self._deliverer.owner)
        for tracking_id in due:
            if self._deliverer.stopping.is_set():
                return
            with self._database.write() as session:
                tracking = trackings.lease(session, tracking_id, self._name, self._deliverer.owner, LEASE_S)
            if tracking is None:
                continue
            try:
                self._record(tracking)
            except Exception as error:  # whatever a tracker's library raises, it is no fault of the job
                if isinstance(error, SQLAlchemyError) and is_outage(error):
                    raise
                log.warning("tracker_failed", tracker=self._name, job_id=tracking.job_id, error=type(error).__name__)
                self._shut(tracking.id)
                self._put_off(tracking)

    def close(self) -> None:
        """The deliverer stops: what it has open is another's."""
        for tracking_id in list(self._open):
            self._shut(tracking_id)
        try:
            with self._database.write() as session:
                trackings.release(session, self._name, self._deliverer.owner)
        except SQLAlchemyError as error:
            log.warning("not_released", tracker=self._name, error=type(error).__name__)  # the lease runs out

    def _record(self, tracking: ExportTask) -> None:
        with self._database.read() as session:
            job = session.get_one(Job, tracking.job_id)
        opened = self._open.get(tracking.id)
        if opened is None:
            opened = self._open[tracking.id] = Open(self._tracker.open(_about(job, tracking)))
            self._tell_url(tracking, opened.run.url)
        with self._database.read() as session:  # after the job's status was read: of one that has ended, all is here
            told = events.metrics_after(session, job.id, opened.seq)
        points = [
            MetricPoint(event.data["step"], event.created_at, numbers(event.data)) for event in told if event.data
        ]
        fresh = _ascending(points, opened.run.step)
        opened.run.add(fresh)
        if told:
            opened.seq = told[-1].seq
        opened.run.step = fresh[-1].step if fresh else opened.run.step
        self._settle(tracking, JobStatus(job.status), opened.run)

    def _settle(self, tracking: ExportTask, status: JobStatus, run: Run) -> None:
        ended, running = status in FINAL, status is JobStatus.RUNNING
        if not running:
            run.close(status if ended else None)
            del self._open[tracking.id]
        wait_s = self._deliverer.context.settings.track_s if running else IDLE_S
        with self._database.write() as session:
            if ended:
                trackings.end(session, tracking.id, self._deliverer.owner)
            else:
                trackings.reschedule(session, tracking.id, self._deliverer.owner, wait_s, keep=running, lease_s=LEASE_S)

    def _put_off(self, tracking: ExportTask) -> None:
        """Try again later. The user is told when an outage begins, and when it has outlasted our patience."""
        title = TITLES[self._name]
        with self._database.write() as session:
            job = jobs.lock(session, tracking.job_id)
            assert job is not None, tracking.job_id
            if job.finished_at is not None and trackings.is_past(session, job.finished_at + GIVE_UP_S):
                trackings.end(session, tracking.id, self._deliverer.owner)
                events.add_event(session, job.id, f"Metrics could not be sent to {title}: given up", level="warn")
                return
            trackings.failed(session, tracking, self._deliverer.owner)
            if tracking.failures == 0:
                message = f"Metrics could not be sent to {title}: they will be once it answers. The job goes on."
                events.add_event(session, job.id, message, level="warn")

    def _tell_url(self, tracking: ExportTask, url: str | None) -> None:
        if url is None or tracking.url is not None:
            return
        with self._database.write() as session:
            jobs.lock(session, tracking.job_id)
            trackings.tell_url(session, tracking.id, self._deliverer.owner, url)
            events.add_event(session, tracking.job_id, f"Metrics are sent to {TITLES[self._name]}: {url}")

    def _shut(self, tracking_id: str) -> None:
        opened = self._open.pop(tracking_id, None)
        if opened is None:
            return
        try:
            opened.run.close(None)
        except Exception as error:  # it is given up as it is; who opens it again asks what arrived
            log.warning("tracker_not_closed", tracker=self._name, error=type(error).__name__)


def _about(job: Job, tracking: ExportTask) -> RunInfo:
    return RunInfo(
        job_id=job.id,
        number=tracking.number,
        model=job.model_id,
        base_model=job.base_model,
        config=job.resolved or {},
        options=tracking.options or {},
    )


def _ascending(points: Sequence[MetricPoint], after: int) -> list[MetricPoint]:
    """Each step once, and only those after the last that the tracker has."""
    fresh: list[MetricPoint] = []
    for point in points:
        if point.step > after:
            fresh.append(point)
            after = point.step
    return fresh
