"""Parts of uploads. A part is streamed to storage as it arrives, and belongs to the upload once its row is
committed."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from anyio.to_thread import run_sync

from api.context import Caller, Context
from api.errors import InvalidRequest, ServiceError
from api.infra.storage import StoredObject
from api.infra.unused_objects import delete_unused
from api.records import uploads as records
from api.records.base import db_now
from api.records.uploads import PENDING, UploadPart
from api.services import project_limits, uploads
from api.services.files import Consume, limit_bytes
from api.spec.ids import new_id


@dataclass(frozen=True)
class ReceivedPart:
    part_id: str
    storage_key: str
    stored: StoredObject


async def add(
    context: Context, caller: Caller, upload_id: str, receive: Callable[[Consume], Awaitable[None]]
) -> UploadPart:
    """Stream a part to storage and add it to its upload. If the part is refused, keep nothing.

    `receive` passes the part's chunks to its argument. Raise NoSuchUpload, UploadEnded, WrongParts, TooLarge,
    InvalidRequest, TooManyRequests.
    """
    # Checked before the first byte is read, so that no client sends 64 MiB to an upload that has ended.
    await run_sync(_check_pending, context, caller, upload_id)
    received: ReceivedPart | None = None

    async def consume(chunks: AsyncIterator[bytes]) -> None:
        nonlocal received
        part_id = new_id("part_")
        key = f"uploads/{upload_id}/{part_id}"
        limited = limit_bytes(chunks, context.settings.max_part_bytes, what="part", param="data")
        received = ReceivedPart(part_id, key, await context.storage.write(key, limited, low_memory=True))

    try:
        await receive(consume)
        if received is None or received.stored.bytes == 0:
            raise InvalidRequest("'data' is a required property, and must not be empty", param="data")
    except BaseException:  # no row can name the object yet
        if received is not None:
            await run_sync(delete_unused, partial(context.storage.delete, [received.storage_key]))
        raise
    try:
        return await run_sync(_insert_part, context, caller, upload_id, received)
    except ServiceError:  # after any other error the row may exist; if not, the object is deleted with the upload
        await run_sync(delete_unused, partial(context.storage.delete, [received.storage_key]))
        raise


def _check_pending(context: Context, caller: Caller, upload_id: str) -> None:
    with context.database.write() as session:
        upload = uploads.locked(session, caller, upload_id)
    # Raised after the transaction, so that the new status of an upload that is found expired is committed.
    if upload.status != PENDING:
        raise uploads.UploadEnded(upload)


def _insert_part(context: Context, caller: Caller, upload_id: str, received: ReceivedPart) -> UploadPart:
    part = UploadPart(
        id=received.part_id,
        upload_id=upload_id,
        bytes=received.stored.bytes,
        sha256=received.stored.sha256,
        created_at=db_now(),
    )
    with context.database.write() as session:
        upload = uploads.locked(session, caller, upload_id)
        if upload.status != PENDING:
            raise uploads.UploadEnded(upload)
        count, total = records.received(session, upload_id)
        # A client sends a part again if it got no answer, so there may be more parts than the completion names.
        if count >= uploads.MAX_PARTS or total + part.bytes > 2 * upload.bytes + context.settings.max_part_bytes:
            raise uploads.WrongParts(
                f"{upload_id} has more parts than an upload of {upload.bytes} bytes may have", param="data"
            )
        project_limits.require_storage(context, session, caller.project_id, bytes_more=part.bytes, param="data")
        upload.expires_at = db_now() + context.settings.upload_expires_s  # a slow client may need hours in all
        session.add(part)
        session.flush()
        session.refresh(part)
    return part
