"""The end of a batch: its results become the output file and the error file."""

import json
from collections.abc import AsyncIterator, Sequence
from functools import partial

from anyio.to_thread import run_sync
from sqlalchemy.orm import Session

from api.context import Context
from api.infra.unused_objects import delete_unused
from api.records import batch_items, batches
from api.records.batch_items import QUEUE, BatchItem, item_id
from api.records.batches import Batch
from api.records.item_queue import StaleWork, WorkClaim
from api.services import files
from api.services.files import NewFile
from api.spec.batch import BatchStatus
from api.spec.fields import JsonObject

PAGE = 8
"""Number of results that are in memory at a time. Each may have MAX_RESULT_BYTES bytes (api.batch_worker.item)."""
PURPOSE = "batch_output"

UNANSWERED = {
    BatchStatus.CANCELLING: {
        "code": "batch_cancelled",
        "message": "This request was not answered before the batch was cancelled.",
    },
    BatchStatus.FINALIZING: {
        "code": "batch_expired",
        "message": "This request could not be answered before the completion window expired.",
    },
}
"""{status of a batch that is about to end: error of its requests without a result}."""


async def finalize(context: Context, claim: WorkClaim[Batch]) -> None:
    """Write the files and end the batch. If the claim is lost, delete the files and raise StaleWork."""
    batch = claim.work
    output, errors = None, None
    try:
        if batch.completed:
            output = await files.store(context, batch.project_id, _lines(context, claim, succeeded=True))
        if batch.completed < batch.total:
            errors = await files.store(context, batch.project_id, _lines(context, claim, succeeded=False))
        await run_sync(_end, context, claim, output, errors)
    except StaleWork:
        # Only now is it certain that no row names these objects. After any other error, a row may name them; if none
        # does, `attune storage collect` removes them.
        written = [file.storage_key for file in (output, errors) if file is not None]
        await run_sync(delete_unused, partial(context.storage.delete, written))
        raise


async def _lines(context: Context, claim: WorkClaim[Batch], *, succeeded: bool) -> AsyncIterator[bytes]:
    after = 0
    while items := await run_sync(_page, context, claim, succeeded, after):
        for item in items:
            yield f"{item.result or _unanswered(claim, item)}\n".encode()
        after = items[-1].line


def _page(context: Context, claim: WorkClaim[Batch], succeeded: bool, after: int) -> Sequence[BatchItem]:
    """Return the next results, and extend the lease of the batch."""
    with context.database.write() as session:
        QUEUE.renew(session, claim, context.settings.lease_s)
    with context.database.read() as session:
        return batch_items.results(session, claim.work.id, succeeded=succeeded, after=after, limit=PAGE)


def _unanswered(claim: WorkClaim[Batch], item: BatchItem) -> str:
    return result_line(item.work_id, item.line, item.custom_id, error=UNANSWERED[BatchStatus(claim.work.status)])


def result_line(
    batch_id: str, line: int, custom_id: str, *, response: JsonObject | None = None, error: JsonObject | None = None
) -> str:
    """Return the line for an output file or an error file, without a line break."""
    return json.dumps({"id": item_id(batch_id, line), "custom_id": custom_id, "response": response, "error": error})


def _end(context: Context, claim: WorkClaim[Batch], output: NewFile | None, errors: NewFile | None) -> None:
    with context.database.write() as session:
        batch = QUEUE.lock_claimed(session, claim)
        if output is not None:
            batch.output_file = _add(session, batch, output, "output")
        if errors is not None:
            batch.error_file = _add(session, batch, errors, "error")
        cancelled = batch.status == BatchStatus.CANCELLING
        ended = BatchStatus.EXPIRED if batch_items.has_unanswered(session, batch.id) else BatchStatus.COMPLETED
        batch.failed = batch.total - batch.completed
        session.flush()
        QUEUE.remove_items(session, batch.id)
        batches.transition(session, batch, BatchStatus.CANCELLED if cancelled else ended)


def _add(session: Session, batch: Batch, written: NewFile, kind: str) -> str:
    file = files.add(
        session,
        written,
        project_id=batch.project_id,
        key_id=batch.key_id,
        filename=f"{batch.id}_{kind}.jsonl",
        purpose=PURPOSE,
        expires_after_s=batch.output_expires_s,
    )
    return file.id
