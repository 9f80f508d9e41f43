"""A worker's watch over the others: whether it saw the database all along, so that their silence means something.

A stop of the database, or of everything, makes all workers silent alike. Who judges by leases that ran out meanwhile
takes jobs from healthy workers. So after a gap in our own sight, and after our own start, nobody is judged for one
lease: by then every healthy worker has renewed.
"""

import threading
import time
from collections.abc import Callable


class Visibility:
    def __init__(self, lease_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_s, self._clock = lease_s, clock
        self._lock = threading.Lock()
        self._seen: tuple[float, float] | None = None
        """When the database was last seen: by our clock, and by its own."""
        self._trusted_from = clock() + lease_s
        self._stalled_until = 0.0

    @property
    def look_s(self) -> float:
        """How often the database has to be seen."""
        return self._lease_s / 6

    def saw(self, database_time: float) -> bool:
        """Note that the database answered, and with what time. Returns whether leases that ran out may be judged.

        To be called after the leases were read, in the same transaction: the stop may have come in between. Both clocks
        count, because ours may have stood still with its machine, and the database's may have been set.
        """
        with self._lock:
            now = self._clock()
            if self._seen is not None:
                gap = max(now - self._seen[0], database_time - self._seen[1])
                if gap > self._lease_s / 2:
                    self._trusted_from = self._stalled_until = now + self._lease_s
            self._seen = (now, database_time)
            return now >= self._trusted_from

    def missed(self) -> None:
        """Note that the database did not answer."""
        with self._lock:
            self._trusted_from = self._stalled_until = self._clock() + self._lease_s

    @property
    def stalled(self) -> bool:
        """Whether the database or everything stopped less than one lease ago."""
        return self._clock() < self._stalled_until
