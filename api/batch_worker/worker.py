"""The batch worker, which validates batches, answers their requests and ends them."""

from anyio.to_thread import run_sync
from sqlalchemy.orm import Session

from api.background.worker import ItemWorker
from api.batch_worker import item, validation
from api.batch_worker.results import finalize
from api.context import Context
from api.records import batch_items
from api.records.batch_items import BatchItem, BatchItemClaim, ItemResult
from api.records.batches import Batch
from api.records.item_queue import WorkClaim
from api.spec.batch import BatchStatus


class BatchWorker(ItemWorker[Batch, BatchItem, ItemResult]):
    name = "batch"

    def __init__(self, context: Context) -> None:
        super().__init__(context, batch_items.QUEUE, at_once=context.settings.batch_requests)

    async def answer(self, claim: BatchItemClaim) -> ItemResult:
        return await item.answer(self._context, claim)

    def finish(self, session: Session, claim: BatchItemClaim, result: ItemResult) -> bool:
        return batch_items.finish(session, claim, result)

    def internal_error(self, claim: BatchItemClaim) -> ItemResult:
        return item.internal_error(claim)

    async def advance(self, claim: WorkClaim[Batch]) -> None:
        """Do the step for the batch's status: validate it, end it because its completion window is over, or write its
        files."""
        if claim.work.status == BatchStatus.VALIDATING:
            await run_sync(validation.validate, self._context, claim)
        elif claim.work.status == BatchStatus.IN_PROGRESS:
            await run_sync(validation.expire, self._context, claim)
        else:
            await finalize(self._context, claim)
