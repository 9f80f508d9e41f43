"""Turns by project at what only few can use at once: threads, children.

Whoever waits, waits as a coroutine and holds nothing. The next turn is for the project that has fewest now, and among
equals for the one whose last turn is longest ago: a project that asks for hundreds delays its own requests only.
"""

import asyncio
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from api.errors import TooManyRequests


class Crowded(TooManyRequests):
    code = "too_many_requests_at_once"

    def __init__(self, what: str, allowed: int) -> None:
        super().__init__(
            f"This project has {allowed} {what} under way or waiting, the most that it may at once: ask again when "
            "some are answered",
            headers={"retry-after": "1"},
        )


@dataclass(eq=False)
class _Waiter:
    loop: asyncio.AbstractEventLoop
    woken: asyncio.Event
    granted: bool = False


class FairLimiter:
    def __init__(self, what: str, *, at_once: int, each: int, waiting: int) -> None:
        """`at_once` for all projects together, `each` for one of them; so many of one may wait."""
        self._what, self._free, self._each, self._most_waiting = what, at_once, each, waiting
        self._lock = threading.Lock()  # the tests' clients have an event loop each
        self._running: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[_Waiter]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, project_id: str, *, wait_s: float | None = None) -> AsyncIterator[None]:
        """Raises Crowded at once, and TimeoutError after `wait_s`."""
        waiter = self._enter(project_id)
        try:
            async with asyncio.timeout(wait_s):
                await waiter.woken.wait()
            yield
        finally:
            self._leave(project_id, waiter)

    def _enter(self, project_id: str) -> _Waiter:
        waiter = _Waiter(asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            if project_id not in self._waiting:
                self._waiting[project_id] = deque()
                self._waiting.move_to_end(project_id, last=False)  # it has had no turn of late
            queue = self._waiting[project_id]
            busy = self._free <= 0 or self._running[project_id] >= self._each
            if busy and len(queue) >= self._most_waiting:
                raise Crowded(self._what, self._most_waiting + self._running[project_id])
            queue.append(waiter)
            self._grant()
        return waiter

    def _leave(self, project_id: str, waiter: _Waiter) -> None:
        with self._lock:
            if waiter.granted:
                self._free += 1
                self._running[project_id] -= 1
            else:
                self._waiting[project_id].remove(waiter)
            self._grant()
            if not self._waiting[project_id] and not self._running[project_id]:
                del self._waiting[project_id], self._running[project_id]

    def _grant(self) -> None:
        """Give what is free to those that wait."""
        while self._free > 0:
            wanting = [name for name, queue in self._waiting.items() if queue and self._running[name] < self._each]
            if not wanting:
                return
            name = min(wanting, key=self._running.__getitem__)
            waiter = self._waiting[name].popleft()
            self._waiting.move_to_end(name)
            self._running[name] += 1
            self._free -= 1
            waiter.granted = True
            waiter.loop.call_soon_threadsafe(waiter.woken.set)
