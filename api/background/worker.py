"""The loop of a worker that claims items and answers a few at a time (api.records.item_queue). It also does the steps
of the work that the items belong to, such as the validation of a batch.

Every result is stored before another item takes its place. If a worker dies, only its unfinished answers are lost: the
leases of their items expire, and another worker answers them.
"""

import asyncio
import secrets
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar

import structlog
from anyio.to_thread import run_sync
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from api.background import postponed
from api.background.postponed import MAX_FAULTS, Postponed
from api.context import Context
from api.errors import InsufficientStorage
from api.infra.beats import ProcessReport, process_name, reporting
from api.infra.exhaustion import is_exhausted
from api.infra.preview_process import PreviewFailed
from api.infra.storage import StorageUnavailable
from api.records.database import is_outage
from api.records.item_queue import I, ItemClaim, StaleWork, W, WorkClaim, WorkQueue
from api.settings import Settings

log = structlog.get_logger(__name__)

RETRY_S = 2.0
"""Seconds between two attempts to write a result during an outage of the database."""
OUTAGES = (StorageUnavailable, InsufficientStorage)
"""Errors of the storage, and of a full disk, that no item has caused."""

R = TypeVar("R")
"""Type of an item's result."""


class ItemWorker(ABC, Generic[W, I, R]):
    name: ClassVar[str]
    """First word of the names of the worker's log lines."""

    def __init__(self, context: Context, queue: WorkQueue[W, I], *, at_once: int) -> None:
        """`at_once`: number of items that are answered at the same time."""
        self._context, self._settings, self._queue, self._at_once = context, context.settings, queue, at_once
        self._owner = secrets.token_hex(8)
        self._answering: dict[asyncio.Task[None], ItemClaim[W, I]] = {}
        self._paused_until = 0.0
        self.stopping = asyncio.Event()

    @abstractmethod
    async def answer(self, claim: ItemClaim[W, I]) -> R:
        """Return the item's result: an answer, or an error that a repetition would not change.

        Raise Postponed if a later attempt may give another result.
        """

    @abstractmethod
    def finish(self, session: Session, claim: ItemClaim[W, I], result: R) -> bool:
        """Store the item's result. Return False if the claim is lost."""

    def postpone(self, session: Session, claim: ItemClaim[W, I], end: Postponed) -> None:
        """Give up the claim of an item without a result."""
        self._queue.release(session, claim, end.wait_s, fault=end.fault)

    @abstractmethod
    def internal_error(self, claim: ItemClaim[W, I]) -> R:
        """Return the result of an item that could not be answered because of an internal error of this server."""

    @abstractmethod
    async def advance(self, claim: WorkClaim[W]) -> None:
        """Do the step that is due for the work as a whole. Raise StaleWork if the claim is lost."""

    async def run(self) -> None:
        log.info(f"{self.name}_worker_ready", owner=self._owner)
        stopped = asyncio.create_task(self.stopping.wait())
        others = [asyncio.create_task(self._renew_repeatedly()), asyncio.create_task(self._advance_repeatedly())]
        while not self.stopping.is_set():
            try:
                await self._fill_places()
            except SQLAlchemyError as error:
                log.warning(f"{self.name}_items_not_claimed", error=type(error).__name__)
            except Exception:
                log.exception(f"{self.name}_items_not_claimed")
            awaited = {stopped, *self._answering}
            await asyncio.wait(awaited, timeout=self._settings.poll_s, return_when=asyncio.FIRST_COMPLETED)
        tasks = [*others, *self._answering]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def report(self, stage: str) -> ProcessReport:
        """Return the report of this process (api.infra.beats). May be called from any thread."""
        owner, answering = process_name(stage, self._owner), len(self._answering)
        return ProcessReport(owner=owner, stage=stage, slots=self._at_once, answering=answering)

    async def run_until_idle(self) -> None:
        """Run until neither a piece of work nor an item is due."""
        while True:
            advanced = await self.work_once()
            await self._fill_places()
            if self._answering:
                await asyncio.wait(self._answering)
            elif not advanced:
                return

    async def _fill_places(self) -> None:
        """Claim items and begin to answer them, until `at_once` items are being answered."""
        self._answering = {task: claim for task, claim in self._answering.items() if not task.done()}
        loop = asyncio.get_running_loop()
        while len(self._answering) < self._at_once and loop.time() >= self._paused_until:
            claim = await run_sync(self._claim_item)
            if claim is None:
                return
            self._answering[asyncio.create_task(self._answer(claim))] = claim

    def _claim_item(self) -> ItemClaim[W, I] | None:
        with self._context.database.read() as session:
            if not self._queue.any_item_due(session):
                return None
        with self._context.database.write() as session:
            return self._queue.claim_item(session, self._owner, self._settings.lease_s)

    async def _answer(self, claim: ItemClaim[W, I]) -> None:
        with structlog.contextvars.bound_contextvars(work_id=claim.work.id, line=claim.item.line):
            try:
                end: R | Postponed = await self.answer(claim)
            except asyncio.CancelledError:  # the work was cancelled, or this worker shuts down
                if self.stopping.is_set():
                    await self._store(claim, Postponed(0))
                raise
            except Postponed as later:
                end = later
            except Exception as error:
                end = self._end_after(error, claim)
            if isinstance(end, Postponed) and end.outage:
                self._paused_until = asyncio.get_running_loop().time() + end.wait_s
            await self._store(claim, end)

    def _end_after(self, error: Exception, claim: ItemClaim[W, I]) -> R | Postponed:
        """Return how an attempt ends after this error. An outage of the database or the storage, a full disk or an
        exhausted machine postpones the item. Any other error is a fault: it postpones the item, too, until there are
        MAX_FAULTS, and then gives its result."""
        of_database = isinstance(error, SQLAlchemyError) and is_outage(error)
        if isinstance(error, OUTAGES) or of_database or is_exhausted(error):
            log.warning(f"{self.name}_item_waits", error=type(error).__name__)
            return Postponed(postponed.OUTAGE_WAIT_S, outage=True)
        log.exception(f"{self.name}_item_raised")
        if claim.item.faults + 1 < MAX_FAULTS:
            return Postponed(postponed.FAULT_WAIT_S, fault=True)
        return self.internal_error(claim)

    async def _store(self, claim: ItemClaim[W, I], end: R | Postponed) -> None:
        """Write how an attempt ended. During an outage of the database, retry until it is written."""
        while True:
            try:
                return await run_sync(self._write, claim, end)
            except SQLAlchemyError as error:
                if not is_outage(error) or self.stopping.is_set():
                    log.exception(f"{self.name}_result_not_written")
                    return None  # the item's lease expires, and another worker takes it
                await asyncio.sleep(RETRY_S)
            except StaleWork:
                log.info(f"{self.name}_result_stale")
                return None

    def _write(self, claim: ItemClaim[W, I], end: R | Postponed) -> None:
        with self._context.database.write() as session:
            if isinstance(end, Postponed):
                self.postpone(session, claim, end)
            elif not self.finish(session, claim, end):
                log.info(f"{self.name}_result_stale")

    async def _renew_repeatedly(self) -> None:
        """Extend the leases of the items that are being answered, and stop answering items whose claim was lost.

        The lease of an item whose result could not be written expires, so that a worker answers it again.
        """
        while True:
            await asyncio.sleep(self._settings.poll_s)
            held = {task: claim for task, claim in self._answering.items() if not task.done()}
            if not held:
                continue
            try:
                renewed = await run_sync(self._renew, {claim.key for claim in held.values()})
            except SQLAlchemyError as error:
                log.warning(f"{self.name}_leases_not_renewed", error=type(error).__name__)
                continue
            for task, claim in held.items():
                if claim.key not in renewed:
                    task.cancel()

    def _renew(self, keys: set[tuple[str, int, int]]) -> set[tuple[str, int, int]]:
        with self._context.database.write() as session:
            return self._queue.renew_items(session, keys, self._settings.lease_s)

    async def _advance_repeatedly(self) -> None:
        while True:
            if not await self.work_once():
                await asyncio.sleep(self._settings.poll_s)

    async def work_once(self) -> bool:
        """Do the next step that is due for a piece of work as a whole. Return False if none is due, or if it failed."""
        try:
            claim = await run_sync(self._claim)
            if claim is None:
                return False
            with structlog.contextvars.bound_contextvars(work_id=claim.work.id):
                log.info(f"{self.name}_advanced", status=claim.work.status)
                await self.advance(claim)
        except StaleWork:  # its status changed meanwhile, for example to cancelled: it may be due again
            return True
        except (SQLAlchemyError, PreviewFailed, *OUTAGES) as error:  # the work is due again when its lease expires
            log.warning(f"{self.name}_not_advanced", error=type(error).__name__)
        except Exception:
            log.exception(f"{self.name}_not_advanced")
        else:
            return True
        return False

    def _claim(self) -> WorkClaim[W] | None:
        with self._context.database.read() as session:
            if not self._queue.any_due(session):
                return None
        with self._context.database.write() as session:
            return self._queue.claim(session, self._settings.lease_s)


def serve(settings: Settings, stage: str, worker: Callable[[Context], ItemWorker[W, I, R]]) -> None:
    """Run the worker until SIGTERM or SIGINT. Items that are not answered by then are given back to the queue."""

    async def main() -> None:
        running = worker(Context.open(settings))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, running.stopping.set)
        with reporting(settings.broker_url, lambda: running.report(stage)):
            await running.run()

    asyncio.run(main())
