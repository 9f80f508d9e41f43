"""Exports of metrics from the database to a tracker. Each tracker has a thread of its own.

A job never waits for a tracker: its metrics are in the database first, and any deliverer with this tracker may send the
rest after the job has ended. The tracker itself reports which steps it already holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import SQLAlchemyError

from api.infra.tracker_registry import TITLES
from api.records import events, jobs, trackings
from api.records.database import is_outage
from api.records.jobs import Job
from api.records.trackings import ExportTask
from api.spec.lifecycle import FINAL, JobStatus
from worker.delivery.deliverer import Deliverer
from worker.delivery.trackers.base import MetricPoint, Run, RunInfo, Tracker, numbers

log = structlog.get_logger(__name__)

LEASE_S = 300
"""Seconds for which a deliverer owns a run that it has open. Even the slowest tracker answers or times out sooner."""
IDLE_S = 30
"""Seconds between checks of a job that is not running."""
GIVE_UP_S = 2 * 24 * 3600
"""Seconds after a job's end for which failing exports are retried."""

UNAVAILABLE = "Metrics could not be sent to {}. They are sent when it answers again; the job continues."
GIVEN_UP = "Metrics could not be sent to {}: every attempt failed for two days after the job's end."


@dataclass
class OpenRun:
    """A job's run at the tracker, which this deliverer has open."""

    run: Run
    seq: int = 0
    """Sequence number of the last exported event."""


class MetricsExporter:
    def __init__(self, deliverer: Deliverer, name: str, tracker: Tracker) -> None:
        self._deliverer, self._name, self._tracker = deliverer, name, tracker
        self._database = deliverer.context.database
        self._open: dict[str, OpenRun] = {}
        self._closed: dict[str, int] = {}
        """{task: sequence number of the last exported event} of jobs that are not running, whose runs were closed."""

    def run(self) -> None:
        settings = self._deliverer.context.settings
        self._deliverer.repeat(f"metrics_{self._name}", self._export_all, settings.track_s)
        self.close()

    def _export_all(self) -> None:
        while not self._deliverer.stopping.is_set() and self.export_due():
            pass

    def export_due(self) -> bool:
        """Export the next metrics of each job whose export is due, up to `events.BATCH` of each. Return whether a job
        has more.

        A long backlog is sent in many rounds, so that it never fills the memory, delays no other job, and renews its
        lease with each round.
        """
        owner = self._deliverer.owner
        with self._database.read() as session:
            due, held = trackings.due(session, self._name, owner), trackings.held(session, self._name, owner)
        for tracking_id in self._open.keys() - held:
            self._close_run(tracking_id)
        has_more = False
        for tracking_id in due:
            if self._deliverer.stopping.is_set():
                break
            with self._database.write() as session:
                held = trackings.held(session, self._name, owner)
                tracking = trackings.lease(session, tracking_id, self._name, owner, LEASE_S)
            if tracking is None:
                continue
            if tracking_id not in held:  # meanwhile, another deliverer may have added steps to the run
                self._close_run(tracking_id)
            try:
                has_more |= self._export(tracking)
            except Exception as error:  # of any kind: trackers' libraries do not document what they raise
                if isinstance(error, SQLAlchemyError) and is_outage(error):
                    raise
                log.warning("tracker_failed", tracker=self._name, job_id=tracking.job_id, error=type(error).__name__)
                self._close_run(tracking.id)
                self._retry_later(tracking)
        return has_more

    def close(self) -> None:
        """Close all runs, so that another deliverer can open them."""
        for tracking_id in list(self._open):
            self._close_run(tracking_id)
        try:
            with self._database.write() as session:
                trackings.release(session, self._name, self._deliverer.owner)
        except SQLAlchemyError as error:
            log.warning("not_released", tracker=self._name, error=type(error).__name__)  # the lease expires

    def _export(self, tracking: ExportTask) -> bool:
        """Export the job's next metrics. Return whether there are more."""
        with self._database.read() as session:
            job = session.get_one(Job, tracking.job_id)
        status = JobStatus(job.status)
        opened = self._open.get(tracking.id)
        if opened is None:
            if self._is_up_to_date(tracking, status):
                self._reschedule(tracking, IDLE_S, keep=False)
                return False
            self._closed.pop(tracking.id, None)
            opened = self._open[tracking.id] = OpenRun(self._tracker.open(_run_info(job, tracking)))
            self._save_url(tracking, opened.run.url)
        # The metrics are read after the job's status, so that none are missing if the job has ended.
        with self._database.read() as session:
            rows = events.metrics_after(session, job.id, opened.seq)
        points = [
            MetricPoint(event.data["step"], event.created_at, numbers(event.data)) for event in rows if event.data
        ]
        new = _ascending(points, opened.run.step)
        opened.run.add(new)
        if rows:
            opened.seq = rows[-1].seq
        opened.run.step = new[-1].step if new else opened.run.step
        if len(rows) == events.BATCH:
            self._reschedule(tracking, 0, keep=True)
            return True
        self._end_export(tracking, status, opened)
        return False

    def _is_up_to_date(self, tracking: ExportTask, status: JobStatus) -> bool:
        """Return whether a job that neither runs nor has ended has no metrics since its run was closed. To open the run
        anyway would, for days, resume and end it at the tracker, or write all its files again."""
        sent = self._closed.get(tracking.id)
        if sent is None or status is JobStatus.RUNNING or status in FINAL:
            return False
        with self._database.read() as session:
            return not events.metrics_after(session, tracking.job_id, sent, limit=1)

    def _end_export(self, tracking: ExportTask, status: JobStatus, opened: OpenRun) -> None:
        """Set the time of the next export, and close the run if the job is not running."""
        if status is JobStatus.RUNNING:
            self._reschedule(tracking, self._deliverer.context.settings.track_s, keep=True)
            return
        opened.run.close(status if status in FINAL else None)
        del self._open[tracking.id]
        if status in FINAL:
            with self._database.write() as session:
                trackings.finish(session, tracking.id, self._deliverer.owner)
        else:
            self._closed[tracking.id] = opened.seq
            self._reschedule(tracking, IDLE_S, keep=False)

    def _reschedule(self, tracking: ExportTask, wait_s: float, *, keep: bool) -> None:
        with self._database.write() as session:
            trackings.reschedule(session, tracking.id, self._deliverer.owner, wait_s, keep=keep, lease_s=LEASE_S)

    def _retry_later(self, tracking: ExportTask) -> None:
        """Retry the export later, or give it up after GIVE_UP_S. Add an event after the first failure and on giving
        up."""
        title = TITLES[self._name]
        with self._database.write() as session:
            job = jobs.lock(session, tracking.job_id)
            assert job is not None, tracking.job_id
            if job.finished_at is not None and trackings.has_passed(session, job.finished_at + GIVE_UP_S):
                trackings.finish(session, tracking.id, self._deliverer.owner)
                events.add_event(session, job.id, GIVEN_UP.format(title), level="warn")
                return
            trackings.record_failure(session, tracking, self._deliverer.owner)
            if tracking.failures == 0:
                message = UNAVAILABLE.format(title)
                events.add_event(session, job.id, message, level="warn")

    def _save_url(self, tracking: ExportTask, url: str | None) -> None:
        if url is None or tracking.url is not None:
            return
        with self._database.write() as session:
            jobs.lock(session, tracking.job_id)
            trackings.set_url(session, tracking.id, self._deliverer.owner, url)
            events.add_event(session, tracking.job_id, f"Metrics are sent to {TITLES[self._name]}: {url}")

    def _close_run(self, tracking_id: str) -> None:
        opened = self._open.pop(tracking_id, None)
        if opened is None:
            return
        try:
            opened.run.close(None)
        except Exception as error:  # the next deliverer that opens the run asks the tracker what arrived
            log.warning("tracker_not_closed", tracker=self._name, error=type(error).__name__)


def _run_info(job: Job, tracking: ExportTask) -> RunInfo:
    return RunInfo(
        job_id=job.id,
        number=tracking.number,
        model=job.model_id,
        base_model=job.base_model,
        config=job.resolved or {},
        options=tracking.options or {},
    )


def _ascending(points: Sequence[MetricPoint], after: int) -> list[MetricPoint]:
    """Return the points of the steps later than `after`, each step once."""
    new: list[MetricPoint] = []
    for point in points:
        if point.step > after:
            new.append(point)
            after = point.step
    return new
