"""Whether this worker has seen the database without a gap, so that an expired lease means a lost worker.

If the database or the whole machine stops for a while, no worker can renew its lease, and jobs would be taken from
healthy workers. After a gap, and after this worker's start, expired leases are therefore ignored for the length of one
lease. By then, every healthy worker has renewed.
"""

import threading
import time
from collections.abc import Callable


class Visibility:
    def __init__(self, lease_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_s, self._clock = lease_s, clock
        self._lock = threading.Lock()
        self._seen: tuple[float, float] | None = None
        """When the database last answered: by this process's clock, and by the database's."""
        self._trusted_from = clock() + lease_s
        self._stalled_until = 0.0

    @property
    def poll_s(self) -> float:
        """Seconds between queries of the database, short enough to leave no gap."""
        return self._lease_s / 6

    def record_answer(self, database_time: float) -> bool:
        """Note the time with which the database answered. Return whether expired leases mean lost workers.

        Call it after the leases were read, in the same transaction: if the machine stops in between, the gap is then
        noticed. A gap on either clock counts: this process's clock stops while the machine is suspended, and the
        database's clock may be set.
        """
        with self._lock:
            now = self._clock()
            if self._seen is not None:
                gap = max(now - self._seen[0], database_time - self._seen[1])
                if gap > self._lease_s / 2:
                    self._trusted_from = self._stalled_until = now + self._lease_s
            self._seen = (now, database_time)
            return now >= self._trusted_from

    def record_outage(self) -> None:
        """Note that the database did not answer."""
        with self._lock:
            self._trusted_from = self._stalled_until = self._clock() + self._lease_s

    @property
    def stalled(self) -> bool:
        """Whether a gap ended less than one lease ago."""
        return self._clock() < self._stalled_until
