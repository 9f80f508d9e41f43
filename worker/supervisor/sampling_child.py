"""The sampler's child process, shared by the requests that it answers at once."""

import queue
import threading
import time

import structlog

from api.spec.sampling import SamplerJob
from worker.shared.reports import SamplerReport
from worker.supervisor.child import Child

log = structlog.get_logger(__name__)

POLL_S = 0.5
CANCEL_S = 10.0
"""Seconds that a child may take to notice a cancellation. It notices none while it processes a long prompt."""


class ChildLost(Exception):
    """The child ended, or was killed, before its answer was complete."""


class SamplingChild:
    """A running child, whose reports are sorted by request, so that each request's thread reads only its own."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._lock = threading.Lock()
        self._inboxes: dict[str, queue.SimpleQueue[SamplerReport | None]] = {}
        self._cancelled_at: dict[str, float] = {}
        self._ended = self._killed = False
        threading.Thread(target=self._sort, name="reports", daemon=True).start()

    @property
    def alive(self) -> bool:
        return not self._ended and self._child.alive

    def send(self, request: SamplerJob) -> None:
        """Send a request to the child, which answers it with reports."""
        with self._lock:
            inbox = self._inboxes.setdefault(request.id, queue.SimpleQueue())
            if self._ended:
                inbox.put(None)
            self._child.command(cmd="sample", request=request.model_dump(mode="json"))

    def next_report(self, request_id: str) -> SamplerReport:
        """Return the next report on the request. Raises ChildLost if the child has ended, TimeoutError if no report
        comes within POLL_S."""
        try:
            report = self._inboxes[request_id].get(timeout=POLL_S)
        except queue.Empty:
            raise TimeoutError from None
        if report is None:
            raise ChildLost
        return report

    def cancel(self, request_id: str) -> None:
        with self._lock:
            if request_id not in self._cancelled_at:
                self._cancelled_at[request_id] = time.monotonic()
                self._child.command(cmd="cancel", id=request_id)

    def forget(self, request_id: str) -> None:
        """Forget the request. Later reports about it are dropped."""
        with self._lock:
            del self._inboxes[request_id]
            self._cancelled_at.pop(request_id, None)

    def works_for_nobody(self) -> bool:
        """Return whether all of the child's requests are cancelled, and the child has not noticed for CANCEL_S."""
        with self._lock:
            now = time.monotonic()
            return all(now - self._cancelled_at.get(request, now) > CANCEL_S for request in self._inboxes)

    def kill(self) -> None:
        self._killed = True
        self._child.kill()

    def _sort(self) -> None:
        while True:
            try:
                report = self._child.next_report(POLL_S)
            except TimeoutError:
                continue
            if report is None:
                break
            if isinstance(report, SamplerReport):
                self._deliver(report)
        with self._lock:
            self._ended = True
            for inbox in self._inboxes.values():
                inbox.put(None)
        if not self._killed:
            log.error("sampler_died", exit_code=self._child.wait(1.0), log=self._child.log_tail())

    def _deliver(self, report: SamplerReport) -> None:
        with self._lock:
            inbox = self._inboxes.get(report.id)
            if inbox is not None:
                inbox.put(report)
