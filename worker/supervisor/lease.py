"""The heartbeat of one attempt: renews its lease and watches for what the user wants meanwhile.

A thread of its own, because the attempt's thread may be busy for minutes with storing a large state.
"""

import threading
import time

import structlog

from api.context import Context
from api.records import jobs, queue
from api.records.jobs import StaleFence
from api.records.queue import Claim
from worker.supervisor.background import BackgroundThread

log = structlog.get_logger(__name__)


class Heartbeat(BackgroundThread):
    """While it runs: `lost` is set when the job is no longer ours, `pause` when its user asked for a pause."""

    def __init__(self, context: Context, claim: Claim) -> None:
        super().__init__(f"beat-{claim.job_id}")
        self._context, self._claim = context, claim
        self.lost = threading.Event()
        self.pause = threading.Event()

    def _run(self) -> None:
        settings = self._context.settings
        beat_at = time.monotonic() + settings.heartbeat_s
        while not self._stop.wait(min(settings.poll_s, settings.heartbeat_s)):
            try:
                self._look()
                if time.monotonic() >= beat_at:
                    with self._context.database.write() as session:
                        queue.renew(session, self._claim, settings.lease_s)
                    beat_at = time.monotonic() + settings.heartbeat_s
            except StaleFence:
                self.lost.set()
                return
            except Exception as error:
                # Whatever it was, train on: without beats a healthy attempt would be taken for lost. If another worker
                # took the job meanwhile, the fence will say so.
                log.warning("beat_missed", job_id=self._claim.job_id, error=type(error).__name__)

    def _look(self) -> None:
        with self._context.database.read() as session:
            if jobs.pause_is_wanted(session, self._claim.job_id, self._claim.fence):
                self.pause.set()
