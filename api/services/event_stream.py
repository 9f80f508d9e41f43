"""Following a job while it trains: its events as they are written, and its metrics as one series."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import anyio
import structlog
from sqlalchemy.exc import SQLAlchemyError

from api.context import Caller, Context
from api.errors import InvalidRequest, TooManyRequests
from api.records import event_feed, events
from api.records.events import Event
from api.services import jobs

log = structlog.get_logger(__name__)

T = TypeVar("T")

BATCH = 500
THREADS = 8
"""For all streams together: however many there are, the threads that answer everyone else stay free."""


@dataclass(eq=False)
class _Waiter:
    job_id: str
    after: int
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class EventWatcher:
    """Looks at the database for all streams of this process at once, and wakes those whose jobs have news."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._limiter = anyio.CapacityLimiter(THREADS)
        self._waiters: set[_Waiter] = set()
        self._looking: asyncio.Task[None] | None = None
        self._open: Counter[str] = Counter()

    @contextmanager
    def stream_slot(self, project_id: str) -> Iterator[None]:
        """One of the streams that may be open at once. On the event loop only. Raises TooManyRequests."""
        settings = self._context.settings
        whose, count, limit = "a project", self._open[project_id], settings.max_project_streams
        if self._open.total() >= settings.max_streams:
            whose, count, limit = "this server", self._open.total(), settings.max_streams
        if count >= limit:
            raise TooManyRequests(
                f"{count} event streams are open, the most that {whose} may have: list the events instead",
                code="too_many_streams",
                headers={"retry-after": "30"},
            )
        self._open[project_id] += 1
        try:
            yield
        finally:
            self._open[project_id] -= 1
            self._open += Counter()  # forgets projects without streams

    async def read(self, job_id: str, after: int) -> tuple[Sequence[Event], bool]:
        return await self._in_thread(partial(self._read, job_id, after))

    async def news(self, job_id: str, after: int, timeout_s: float) -> None:
        """Return when the job has an event after this one, or when the time is over."""
        waiter = _Waiter(job_id, after)
        self._waiters.add(waiter)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            with anyio.move_on_after(timeout_s):
                await waiter.woken.wait()
        finally:
            self._waiters.discard(waiter)

    async def _look(self) -> None:
        while self._waiters:
            await asyncio.sleep(self._context.settings.stream_poll_s)
            job_ids = sorted({waiter.job_id for waiter in self._waiters})
            try:
                newest = await self._in_thread(partial(self._newest, job_ids))
            except SQLAlchemyError as error:
                log.warning("streams_cannot_look", error=type(error).__name__)
                continue
            for waiter in self._waiters:
                if newest.get(waiter.job_id, 0) > waiter.after:
                    waiter.woken.set()

    def _read(self, job_id: str, after: int) -> tuple[Sequence[Event], bool]:
        with self._context.database.read() as session:
            return event_feed.read(session, job_id, after, BATCH)

    def _newest(self, job_ids: list[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        with self._context.database.read() as session:
            for start in range(0, len(job_ids), BATCH):
                found |= event_feed.newest(session, job_ids[start : start + BATCH])
        return found

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(function, limiter=self._limiter)


def begin(context: Context, caller: Caller, job_id: str, last_event_id: str | None) -> int | None:
    """The number of the event after which a stream goes on. None: the job has ended, and this was its last event."""
    jobs.get(context, caller, job_id)
    if last_event_id is None:
        return 0
    with context.database.read() as session:
        after = event_feed.position(session, job_id, last_event_id)
        if after is None:
            raise InvalidRequest("Last-Event-ID does not name an event of this job", param="Last-Event-ID")
        waiting, ended = event_feed.read(session, job_id, after, 1)
    return None if ended and not waiting else after


async def follow(watch: EventWatcher, job_id: str, after: int, keep_alive_s: float) -> AsyncIterator[Sequence[Event]]:
    """The job's events after this one, oldest first, until its last; nothing at all when there was none for a while."""
    while True:
        batch, ended = await watch.read(job_id, after)
        if batch:
            after = batch[-1].seq
            yield batch
        elif ended:
            return
        else:
            await watch.news(job_id, after, keep_alive_s)
            yield []


def metrics(context: Context, caller: Caller, job_id: str, max_points: int | None) -> tuple[list[dict[str, Any]], int]:
    """The steps that are told, and how many there are."""
    jobs.get(context, caller, job_id)
    with context.database.read() as session:
        points = events.metrics_of(session, job_id)
    return points if max_points is None else downsample(points, max_points), len(points)


MAIN = "train_loss"


def downsample(points: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most so many (two or more) of the points, in their order; none of them is made up.

    Always there: the first and the last; then, as far as there is room, the lowest and the highest of every series,
    train_loss before the others; then the lowest and highest train_loss of each stretch of steps.
    """
    if len(points) <= most:
        return list(points)
    kept = {0, len(points) - 1}
    names = _series(points)
    for name in names:
        kept.update(_extremes(points, range(len(points)), name)[: most - len(kept)])
    stretches = (most - len(kept)) // 2
    for index in range(stretches):
        start, end = (1 + (len(points) - 2) * edge // stretches for edge in (index, index + 1))
        kept.update(_extremes(points, range(start, end), names[0]))
    return [points[index] for index in sorted(kept)]


def _series(points: Sequence[dict[str, Any]]) -> list[str]:
    """The names of the numbers that points have, the main one first, then those that most points have."""
    counts = Counter(name for point in points for name, value in point.items() if _is_number(value))
    return sorted(counts, key=lambda name: (name != MAIN, -counts[name], name))


def _extremes(points: Sequence[dict[str, Any]], indices: Iterable[int], name: str) -> list[int]:
    given = [index for index in indices if _is_number(points[index].get(name))]
    if not given:
        return []
    return [pick(given, key=lambda index: float(points[index][name])) for pick in (min, max)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
