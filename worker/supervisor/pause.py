"""A worker's hold: it takes no work while its surroundings are broken, because every job would fail by them.

Jobs stay in the queue, untouched and uncharged. The pauses grow from one vain attempt to the next, and end when what
failed works again.
"""

import threading
import time
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

PAUSES_S = (5, 10, 20, 40, 60)
"""After the first fault of the surroundings in a row, the second, …"""
SUSPICIOUS_JOBS = 3
"""So many different jobs that failed one after the other by no fault of their own make the worker the suspect."""


class Pause:
    """`why` tells why the worker takes no work; None while it takes some."""

    def __init__(self, check: Callable[[bool], str | None], clock: Callable[[], float] = time.monotonic) -> None:
        """`check(thorough)` names what is broken around the worker, or returns None."""
        self._check, self._clock = check, clock
        self._lock = threading.Lock()
        self._pauses = 0
        self._until = 0.0
        self._suspects: set[str] = set()
        self.why: str | None = None

    def open(self) -> bool:
        """Return whether work may be taken. Checks the surroundings: briefly each time, thoroughly after a fault."""
        with self._lock:
            if self.why is not None and self._clock() < self._until:
                return False
            trouble = self._check(self.why is not None)
            if trouble is not None:
                self._begin(trouble)
            elif self.why is not None:
                log.info("worker_takes_work_again", after=self.why)
                self.why = None
            return trouble is None

    def begin(self, why: str) -> None:
        """Take no work for a while, longer each time until an attempt gets through."""
        with self._lock:
            self._begin(why)

    def suspect(self, job_id: str) -> None:
        """Note that the server failed this job here. Enough of them in a row, and the worker pauses."""
        with self._lock:
            self._suspects.add(job_id)
            if len(self._suspects) >= SUSPICIOUS_JOBS:
                self._begin(f"{len(self._suspects)} jobs in a row failed here, for no reason of their own")

    def passed(self) -> None:
        """Note that an attempt got through: nothing is wrong with this worker."""
        with self._lock:
            self._pauses = 0
            self._suspects.clear()

    def _begin(self, why: str) -> None:
        if self.why is not None and self._clock() < self._until:
            return  # another slot met the same fault
        pause_s = PAUSES_S[min(self._pauses, len(PAUSES_S) - 1)]
        self._pauses += 1
        self._until = self._clock() + pause_s
        self.why = why
        log.error("worker_takes_no_work", why=why, pause_s=pause_s)
