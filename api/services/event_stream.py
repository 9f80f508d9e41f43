"""A job's events as a stream, which waits for new events."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import anyio
import structlog
from sqlalchemy.exc import SQLAlchemyError

from api.context import Caller, Context
from api.errors import InvalidRequest, TooManyRequests
from api.records import event_feed, keys
from api.records.events import Event
from api.services import jobs

log = structlog.get_logger(__name__)

T = TypeVar("T")

BATCH = 500
REVIEW_S = 15.0
"""Seconds after which a stream with events checks again that its key is valid. An idle one does so at each sign of
life."""
THREADS = 8
"""Number of threads that all streams share. However many streams are open, they use no threads of other requests."""


@dataclass(eq=False)
class _Waiter:
    job_id: str
    after: int
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class EventWatcher:
    """Polls the database for all streams of this process at once, and wakes those whose jobs have new events."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._limiter = anyio.CapacityLimiter(THREADS)
        self._waiters: set[_Waiter] = set()
        self._polling: asyncio.Task[None] | None = None
        self._open: Counter[str] = Counter()

    @contextmanager
    def stream_slot(self, project_id: str) -> Iterator[None]:
        """Count a stream as open until the block ends. Raise TooManyRequests if too many are open. Call it on the event
        loop only."""
        settings = self._context.settings
        owner, count, limit = "a project", self._open[project_id], settings.max_project_streams
        if self._open.total() >= settings.max_streams:
            owner, count, limit = "this server", self._open.total(), settings.max_streams
        if count >= limit:
            raise TooManyRequests(
                f"{count} event streams are open, the most that {owner} may have: list the events without "
                "stream=true instead",
                code="too_many_streams",
                headers={"retry-after": "30"},
            )
        self._open[project_id] += 1
        try:
            yield
        finally:
            self._open[project_id] -= 1
            self._open += Counter()  # drops the projects without streams

    async def read(self, job_id: str, after: int) -> tuple[Sequence[Event], bool]:
        return await self._in_thread(partial(self._read, job_id, after))

    async def is_valid(self, key_id: str) -> bool:
        """Return whether a key is neither revoked nor expired, or whether the database cannot tell."""
        try:
            return await self._in_thread(partial(self._is_valid, key_id))
        except SQLAlchemyError as error:
            log.warning("stream_key_not_checked", error=type(error).__name__)
            return True

    async def wait_for_event(self, job_id: str, after: int, timeout_s: float) -> bool:
        """Wait for an event of the job after the sequence number `after`. Return True as soon as there is one, False
        after the timeout."""
        waiter = _Waiter(job_id, after)
        self._waiters.add(waiter)
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())
        try:
            with anyio.move_on_after(timeout_s):
                await waiter.wake.wait()
            return waiter.wake.is_set()
        finally:
            self._waiters.discard(waiter)

    async def _poll(self) -> None:
        while self._waiters:
            await asyncio.sleep(self._context.settings.stream_poll_s)
            job_ids = sorted({waiter.job_id for waiter in self._waiters})
            try:
                newest = await self._in_thread(partial(self._newest, job_ids))
            except SQLAlchemyError as error:
                log.warning("event_poll_failed", error=type(error).__name__)
                continue
            for waiter in self._waiters:
                if newest.get(waiter.job_id, 0) > waiter.after:
                    waiter.wake.set()

    def _read(self, job_id: str, after: int) -> tuple[Sequence[Event], bool]:
        with self._context.database.read() as session:
            return event_feed.read(session, job_id, after, BATCH)

    def _is_valid(self, key_id: str) -> bool:
        with self._context.database.read() as session:
            return keys.is_live(session, key_id)

    def _newest(self, job_ids: list[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        with self._context.database.read() as session:
            for start in range(0, len(job_ids), BATCH):
                found |= event_feed.newest_numbers(session, job_ids[start : start + BATCH])
        return found

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(function, limiter=self._limiter)


def begin(context: Context, caller: Caller, job_id: str, last_event_id: str | None) -> int | None:
    """Return the sequence number of the event after which a stream continues; None if the job has ended and no event
    follows.

    Raise NoSuchJob, and InvalidRequest if `last_event_id` is not the id of an event of this job.
    """
    jobs.get(context, caller, job_id)
    if last_event_id is None:
        return 0
    with context.database.read() as session:
        after = event_feed.sequence_number(session, job_id, last_event_id)
        if after is None:
            raise InvalidRequest("Last-Event-ID does not name an event of this job", param="Last-Event-ID")
        waiting, ended = event_feed.read(session, job_id, after, 1)
    return None if ended and not waiting else after


async def follow(
    watcher: EventWatcher, key_id: str, job_id: str, after: int, keep_alive_s: float
) -> AsyncIterator[Sequence[Event]]:
    """Yield the job's events after the sequence number `after` in batches, oldest first, until the job has ended or the
    key is no longer valid.

    After each `keep_alive_s` seconds without an event, yield an empty batch.
    """
    review_at = time.monotonic() + REVIEW_S
    while True:
        if time.monotonic() > review_at:
            if not await watcher.is_valid(key_id):
                return
            review_at = time.monotonic() + REVIEW_S
        batch, ended = await watcher.read(job_id, after)
        if batch:
            after = batch[-1].seq
            yield batch
        elif ended:
            return
        else:
            # The stream reads again only when there is a new event. It does not miss the end of the job, which is
            # an event, too.
            while not await watcher.wait_for_event(job_id, after, keep_alive_s):
                if not await watcher.is_valid(key_id):
                    return
                yield []
