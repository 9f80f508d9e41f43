"""The loop of a batch worker: it claims requests and answers a few at a time, and validates and ends batches.

Every result is stored before its place is filled again. A worker that dies loses nothing else: the leases of its items
expire, and another worker answers them.
"""

import asyncio
import secrets
import signal

import structlog
from anyio.to_thread import run_sync
from sqlalchemy.exc import SQLAlchemyError

from api.batch_worker import item, validation
from api.batch_worker.item import Postponed
from api.batch_worker.results import finalize
from api.context import Context
from api.infra.storage import StorageUnavailable
from api.records import batch_items, batches
from api.records.batch_items import ItemClaim, ItemResult
from api.records.batches import BatchClaim, StaleBatch
from api.records.database import is_outage
from api.settings import Settings
from api.spec.batch import BatchStatus

log = structlog.get_logger(__name__)

RETRY_S = 2.0
"""Seconds between two attempts to write during an outage of the database."""


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Requests that are being answered are given back."""
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    worker = BatchWorker(Context.open(settings))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, worker.stopping.set)
    await worker.run()


class BatchWorker:
    def __init__(self, context: Context) -> None:
        self._context, self._settings = context, context.settings
        self._owner = secrets.token_hex(8)
        self._answering: dict[asyncio.Task[None], ItemClaim] = {}
        self._paused_until = 0.0
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        log.info("batch_worker_ready", owner=self._owner)
        stopped = asyncio.create_task(self.stopping.wait())
        others = [asyncio.create_task(self._renew_repeatedly()), asyncio.create_task(self._advance_repeatedly())]
        while not self.stopping.is_set():
            try:
                await self._fill_places()
            except SQLAlchemyError as error:
                log.warning("batches_not_claimed", error=type(error).__name__)
            except Exception:
                log.exception("batches_not_claimed")
            awaited = {stopped, *self._answering}
            await asyncio.wait(awaited, timeout=self._settings.poll_s, return_when=asyncio.FIRST_COMPLETED)
        tasks = [*others, *self._answering]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def run_until_idle(self) -> None:
        """Work until no batch is due and no request is."""
        while True:
            advanced = await self._work_on_batch()
            await self._fill_places()
            if self._answering:
                await asyncio.wait(self._answering)
            elif not advanced:
                return

    async def _fill_places(self) -> None:
        """Claim requests for the free places."""
        self._answering = {task: claim for task, claim in self._answering.items() if not task.done()}
        loop = asyncio.get_running_loop()
        while len(self._answering) < self._settings.batch_requests and loop.time() >= self._paused_until:
            claim = await run_sync(self._claim_item)
            if claim is None:
                return
            self._answering[asyncio.create_task(self._answer(claim))] = claim

    def _claim_item(self) -> ItemClaim | None:
        with self._context.database.read() as session:
            if not batch_items.any_due(session):
                return None
        with self._context.database.write() as session:
            return batch_items.claim(session, self._owner, self._settings.lease_s)

    async def _answer(self, claim: ItemClaim) -> None:
        with structlog.contextvars.bound_contextvars(batch_id=claim.batch_id, line=claim.line):
            try:
                end: ItemResult | Postponed = await item.answer(self._context, claim)
            except asyncio.CancelledError:  # the batch was cancelled, or this worker shuts down
                if self.stopping.is_set():
                    await self._store(claim, Postponed(0))
                raise
            except Postponed as postponed:
                end = postponed
            except Exception as error:
                end = _end_after(error, claim)
            if isinstance(end, Postponed) and end.outage:
                self._paused_until = asyncio.get_running_loop().time() + end.wait_s
            await self._store(claim, end)

    async def _store(self, claim: ItemClaim, end: ItemResult | Postponed) -> None:
        """Write the end of an attempt, and retry that during an outage of the database."""
        while True:
            try:
                return await run_sync(self._write, claim, end)
            except SQLAlchemyError as error:
                if not is_outage(error) or self.stopping.is_set():
                    log.exception("batch_result_not_written")
                    return None  # its lease expires
                await asyncio.sleep(RETRY_S)

    def _write(self, claim: ItemClaim, end: ItemResult | Postponed) -> None:
        with self._context.database.write() as session:
            if isinstance(end, Postponed):
                batch_items.release(session, claim, end.wait_s, fault=end.fault)
            elif not batch_items.finish(session, claim, end):
                log.info("batch_result_stale")

    async def _renew_repeatedly(self) -> None:
        """Extend the leases of this worker's requests, and stop those that it has lost."""
        while True:
            await asyncio.sleep(self._settings.poll_s)
            held = dict(self._answering)
            if not held:
                continue
            try:
                renewed = await run_sync(self._renew)
            except SQLAlchemyError as error:
                log.warning("batch_leases_not_renewed", error=type(error).__name__)
                continue
            for task, claim in held.items():
                if (claim.batch_id, claim.line, claim.fence) not in renewed:
                    task.cancel()

    def _renew(self) -> set[tuple[str, int, int]]:
        with self._context.database.write() as session:
            return batch_items.renew(session, self._owner, self._settings.lease_s)

    async def _advance_repeatedly(self) -> None:
        while True:
            if not await self._work_on_batch():
                await asyncio.sleep(self._settings.poll_s)

    async def _work_on_batch(self) -> bool:
        """Validate, expire or end the next batch that is due. Return False if none is."""
        try:
            claim = await run_sync(self._claim_batch)
            if claim is None:
                return False
            with structlog.contextvars.bound_contextvars(batch_id=claim.batch.id):
                await self._advance(claim)
        except StaleBatch:  # it was cancelled meanwhile: it is due again
            return True
        except (SQLAlchemyError, StorageUnavailable) as error:  # its lease expires
            log.warning("batch_not_advanced", error=type(error).__name__)
        except Exception:
            log.exception("batch_not_advanced")
        else:
            return True
        return False

    def _claim_batch(self) -> BatchClaim | None:
        with self._context.database.read() as session:
            if not batches.any_due(session):
                return None
        with self._context.database.write() as session:
            return batches.claim(session, self._settings.lease_s)

    async def _advance(self, claim: BatchClaim) -> None:
        log.info("batch_advanced", status=claim.batch.status)
        if claim.batch.status == BatchStatus.VALIDATING:
            await run_sync(validation.validate, self._context, claim)
        elif claim.batch.status == BatchStatus.IN_PROGRESS:
            await run_sync(validation.expire, self._context, claim)
        else:
            await finalize(self._context, claim)


def _end_after(error: Exception, claim: ItemClaim) -> ItemResult | Postponed:
    """Return the end of an attempt that raised: a fault of the request, unless the database or the storage is away."""
    if isinstance(error, StorageUnavailable) or (isinstance(error, SQLAlchemyError) and is_outage(error)):
        log.warning("batch_request_waits", error=type(error).__name__)
        return Postponed(item.OUTAGE_WAIT_S, outage=True)
    log.exception("batch_request_raised")
    if claim.faults + 1 < item.MAX_FAULTS:
        return Postponed(item.FAULT_WAIT_S, fault=True)
    return item.internal_error(claim)
