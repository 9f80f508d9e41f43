"""A concurrency limit for threads or child processes that is fair between projects.

Waiters are coroutines and hold no resources. The next turn goes to the project with the fewest running tasks. Among
projects with equally many, it goes to the one whose last turn was longest ago. So a project with hundreds of requests
delays only its own requests.
"""

import asyncio
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from api.errors import TooManyRequests, Unavailable

RETRY_AFTER_S = 5
"""Seconds after which a task that has waited in vain may be tried again."""


class ConcurrencyLimitExceeded(TooManyRequests):
    """The project has as many tasks at once as it may, and no further one may wait, or none of them ended in time."""

    code = "too_many_requests_at_once"

    def __init__(self, what: str, running: int, waiting: int, *, retry_after_s: int = 1) -> None:
        super().__init__(
            f"This project has {running} {what} at once and {waiting} more waiting, which is its limit. "
            "Retry when some have finished.",
            headers={"retry-after": str(retry_after_s)},
        )


class TurnTimeout(Unavailable):
    """The server has as many tasks at once as it may, and none of them ended in time."""

    code = "too_busy"

    def __init__(self, what: str, total: int) -> None:
        super().__init__(
            f"This server has {total} {what} at once, which is its limit. Retry when some have finished.",
            headers={"retry-after": str(RETRY_AFTER_S)},
        )


@dataclass(eq=False)
class _Waiter:
    loop: asyncio.AbstractEventLoop
    woken: asyncio.Event
    granted: bool = False


class FairLimiter:
    def __init__(
        self,
        what: str,
        *,
        total: int,
        per_project: int,
        max_waiting: int,
        wait_s: float | None = None,
        first_at_once: bool = False,
    ) -> None:
        """At most `total` tasks run at once, and at most `per_project` of one project. Up to `max_waiting` further
        tasks of a project may wait, each for `wait_s` seconds, by default without a limit.

        `first_at_once`: a project without a running task never waits, even if this exceeds `total`. So tasks that may
        take hours, such as uploads over slow lines, never keep other projects out.
        """
        self._what, self._total, self._free = what, total, total
        self._per_project, self._max_waiting = per_project, max_waiting
        self._wait_s, self._first_at_once = wait_s, first_at_once
        self._lock = threading.Lock()  # callers may have different event loops, as in the tests
        self._running: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[_Waiter]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, project_id: str, *, begun: bool = False) -> AsyncIterator[None]:
        """Wait for a turn, and hold it until the block ends.

        Raises ConcurrencyLimitExceeded immediately if too many tasks of the project wait already. After waiting for
        `wait_s` seconds, it raises the same if the project's share is in use, else TurnTimeout. `begun`: the task
        continues a response whose first part was sent, so it waits however many others wait.
        """
        waiter = self._enter(project_id, begun=begun)
        try:
            if not waiter.granted:
                await self._wait(project_id, waiter)
            yield
        finally:
            self._leave(project_id, waiter)

    async def _wait(self, project_id: str, waiter: _Waiter) -> None:
        try:
            async with asyncio.timeout(self._wait_s):
                await waiter.woken.wait()
        except TimeoutError:
            if waiter.granted:
                return
            if self._running[project_id] >= self._per_project:
                waiting = len(self._waiting[project_id])
                raise ConcurrencyLimitExceeded(
                    self._what, self._per_project, waiting, retry_after_s=RETRY_AFTER_S
                ) from None
            raise TurnTimeout(self._what, self._total) from None

    def _enter(self, project_id: str, *, begun: bool = False) -> _Waiter:
        waiter = _Waiter(asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            if project_id not in self._waiting:
                self._waiting[project_id] = deque()
                self._waiting.move_to_end(project_id, last=False)  # the project had no recent turn, so it comes first
            queue = self._waiting[project_id]
            if self._may_run(project_id):
                self._take(project_id, waiter)  # if another task waited for it, the turn would not be free
            elif len(queue) >= self._max_waiting and not begun:
                raise ConcurrencyLimitExceeded(self._what, self._running[project_id], len(queue))
            else:
                queue.append(waiter)
        return waiter

    def _may_run(self, project_id: str) -> bool:
        running = self._running[project_id]
        has_room = self._free > 0 or (self._first_at_once and running == 0)
        return has_room and running < self._per_project

    def _take(self, project_id: str, waiter: _Waiter) -> None:
        self._waiting.move_to_end(project_id)
        self._running[project_id] += 1
        self._free -= 1
        waiter.granted = True

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
        """Give free turns to waiting tasks."""
        while eligible := [name for name, queue in self._waiting.items() if queue and self._may_run(name)]:
            name = min(eligible, key=self._running.__getitem__)
            waiter = self._waiting[name].popleft()
            self._take(name, waiter)
            waiter.loop.call_soon_threadsafe(waiter.woken.set)
