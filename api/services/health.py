"""The readiness check: whether the database answers and the object storage exists.

The check shares no connections and no threads with other requests.
"""

import asyncio

import anyio

from api.errors import Unavailable
from api.infra.storage import Storage
from api.records import Database

TIMEOUT_S = 5.0


class HealthCheck:
    def __init__(self, url: str, storage: Storage) -> None:
        self._database = Database(url)
        """A Database with connections of its own, because requests may hold all those of the context."""
        self._storage = storage
        self._threads = anyio.CapacityLimiter(1)
        self._running: asyncio.Task[None] | None = None

    async def check(self) -> None:
        """Raise the errors of the database and the storage, and Unavailable if they do not answer in time.

        Concurrent calls share one check.
        """
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await asyncio.shield(self._running)
        except TimeoutError:
            raise Unavailable("The database does not answer", headers={"retry-after": "2"}) from None

    async def _run(self) -> None:
        await anyio.to_thread.run_sync(self._require, limiter=self._threads)

    def _require(self) -> None:
        self._database.ping()
        self._storage.require()
