"""Whether the database answers and the objects are in their place.

Asked by whoever watches the process, and by nothing that other requests use.
"""

import asyncio

import anyio

from api.errors import Unavailable
from api.infra.storage import Storage
from api.records import Database

PATIENCE_S = 5.0


class HealthCheck:
    def __init__(self, url: str, storage: Storage) -> None:
        self._database = Database(url)
        """Connections of its own: the others may all be in use."""
        self._storage = storage
        self._threads = anyio.CapacityLimiter(1)
        self._asking: asyncio.Task[None] | None = None

    async def check(self) -> None:
        """Raises what the database and the storage raise, and Unavailable if they say nothing.

        All who ask at once get one answer.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        try:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.shield(self._asking)
        except TimeoutError:
            raise Unavailable("The database does not answer", headers={"retry-after": "2"}) from None

    async def _ask(self) -> None:
        await anyio.to_thread.run_sync(self._look, limiter=self._threads)

    def _look(self) -> None:
        self._database.ping()
        self._storage.require()
