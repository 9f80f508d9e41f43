"""A worker's pause: it takes no work while its disk, its storage or its machine is broken and every job would fail.

Jobs stay in the queue and lose no retries. Each pause is longer than the one before, until an attempt succeeds.
"""

import threading
import time
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

PAUSES_S = (5, 10, 20, 40, 60)
"""Seconds of the first pause, the second, and so on."""
SUSPICIOUS_JOBS = 3
"""If this many different jobs in a row fail through no fault of their own, the worker counts as broken."""


class Pause:
    def __init__(self, check: Callable[[bool], str | None], clock: Callable[[], float] = time.monotonic) -> None:
        """`check(thorough)` returns the reason why the worker cannot work, or None."""
        self._check, self._clock = check, clock
        self._lock = threading.Lock()
        self._pauses = 0
        self._until = 0.0
        self._suspects: set[str] = set()
        self.reason: str | None = None
        """Why the worker takes no work; None while it takes work."""

    def may_work(self) -> bool:
        """Return whether the worker may take work. Each call makes a brief check, and a thorough one after a
        problem."""
        with self._lock:
            if self.reason is not None and self._clock() < self._until:
                return False
            problem = self._check(self.reason is not None)
            if problem is not None:
                self._begin(problem)
            elif self.reason is not None:
                log.info("worker_resumed", after=self.reason)
                self.reason = None
            return problem is None

    def begin(self, reason: str) -> None:
        """Take no work for a while. Each pause is longer, until an attempt succeeds."""
        with self._lock:
            self._begin(reason)

    def suspect(self, job_id: str) -> None:
        """Note that this job failed through no fault of its own. After SUSPICIOUS_JOBS in a row, the worker pauses."""
        with self._lock:
            self._suspects.add(job_id)
            if len(self._suspects) >= SUSPICIOUS_JOBS:
                self._begin(f"{len(self._suspects)} jobs in a row failed on this worker through no fault of their own")

    def record_success(self) -> None:
        """Note that an attempt succeeded, or failed through a fault of the job: this worker is not broken."""
        with self._lock:
            self._pauses = 0
            self._suspects.clear()

    def _begin(self, reason: str) -> None:
        if self.reason is not None and self._clock() < self._until:
            return  # the worker already pauses: another slot met the same problem
        pause_s = PAUSES_S[min(self._pauses, len(PAUSES_S) - 1)]
        self._pauses += 1
        self._until = self._clock() + pause_s
        self.reason = reason
        log.error("worker_paused", why=reason, pause_s=pause_s)
