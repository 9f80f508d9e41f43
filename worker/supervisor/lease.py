"""The heartbeat of one attempt: it renews the lease, and watches for a requested pause.

It has its own thread because the attempt's thread may be busy for minutes storing a large state.
"""

import threading
import time

import structlog

from api.context import Context
from api.records import job_queue, jobs
from api.records.job_queue import Claim
from api.records.jobs import StaleFence
from worker.supervisor.background import BackgroundThread

log = structlog.get_logger(__name__)


class Heartbeat(BackgroundThread):
    def __init__(self, context: Context, claim: Claim) -> None:
        super().__init__(f"heartbeat-{claim.job_id}")
        self._context, self._claim = context, claim
        self.lost = threading.Event()
        """Set when the attempt has lost the job's lease: another attempt may own the job, or the job has ended."""
        self.pause = threading.Event()
        """Set when the user has requested a pause."""

    def _run(self) -> None:
        settings = self._context.settings
        renew_at = time.monotonic() + settings.heartbeat_s
        while not self._stop.wait(min(settings.poll_s, settings.heartbeat_s)):
            try:
                self._poll_pause()
                if time.monotonic() >= renew_at:
                    with self._context.database.write() as session:
                        job_queue.renew(session, self._claim, settings.lease_s)
                    renew_at = time.monotonic() + settings.heartbeat_s
            except StaleFence:
                self.lost.set()
                return
            except Exception as error:
                # Continue whatever went wrong: without renewal, a healthy attempt would be taken for lost. If
                # another worker claims the job meanwhile, the fence shows that.
                log.warning("heartbeat_failed", job_id=self._claim.job_id, error=type(error).__name__)

    def _poll_pause(self) -> None:
        with self._context.database.read() as session:
            if jobs.should_pause(session, self._claim.job_id, self._claim.fence):
                self.pause.set()
