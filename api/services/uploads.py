"""Uploads in parts: announce a file, send its parts in any order, and complete it with the ordered list of parts.

An acknowledged part is kept until the upload ends, even if the connection is lost or a completion fails.
"""

import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial

from anyio.to_thread import run_sync
from sqlalchemy.orm import Session

from api.context import Caller, Context
from api.errors import InvalidRequest, NotFound
from api.infra.storage import JOINED_BYTES, ObjectMissing
from api.infra.unused_objects import delete_unused
from api.records import files as file_records
from api.records import uploads
from api.records.base import db_now
from api.records.files import File
from api.records.uploads import CANCELLED, COMPLETED, EXPIRED, PENDING, Upload, UploadPart
from api.services import files, project_limits
from api.services.files import ExpiresAfter, NewFile
from api.spec.ids import new_id

MAX_PARTS = 10_000


class NoSuchUpload(NotFound):
    param = "upload_id"

    def __init__(self, upload_id: str) -> None:
        super().__init__(f"No such Upload object: {upload_id[:64]}")


class UploadEnded(InvalidRequest):
    """The upload is no longer pending. The HTTP status is 400, because OpenAI's clients retry a 409."""

    code = "invalid_upload_state"

    def __init__(self, upload: Upload) -> None:
        ended = {COMPLETED: "completed already", CANCELLED: "cancelled", EXPIRED: "not completed before it expired"}
        super().__init__(f"{upload.id} was {ended[upload.status]}: begin a new upload", param="upload_id")


class WrongParts(InvalidRequest):
    param = "part_ids"
    code = "invalid_parts"


class WrongMd5(InvalidRequest):
    param = "md5"
    code = "md5_mismatch"


@dataclass(frozen=True)
class UploadView:
    upload: Upload
    file: File | None


def create(
    context: Context,
    caller: Caller,
    *,
    filename: str,
    purpose: str,
    mime_type: str,
    bytes_total: int,
    expires_after: ExpiresAfter | None,
) -> UploadView:
    files.check_purpose(purpose)
    limit = context.settings.max_upload_bytes
    if bytes_total > limit:
        raise InvalidRequest(
            f"bytes: {bytes_total} is more than {limit}, the most that this server takes", param="bytes"
        )
    upload = Upload(
        id=new_id("upload_"),
        project_id=caller.project_id,
        key_id=caller.key_id,
        filename=files.printable(filename),
        purpose=purpose,
        mime_type=mime_type,
        bytes=bytes_total,
        file_expires_after_s=None if expires_after is None else expires_after.seconds,
        status=PENDING,
        created_at=db_now(),
        expires_at=db_now() + context.settings.upload_expires_s,
    )
    with context.database.write() as session:
        project_limits.require_storage(context, session, caller.project_id, bytes_more=bytes_total, param="bytes")
        project_limits.require_upload(session, caller.project_id)
        session.add(upload)
        session.flush()
        session.refresh(upload)
    return UploadView(upload, None)


def get(context: Context, caller: Caller, upload_id: str) -> UploadView:
    with context.database.write() as session:
        return _view(session, locked(session, caller, upload_id))


async def complete(
    context: Context, caller: Caller, upload_id: str, part_ids: Sequence[str], md5: str | None
) -> UploadView:
    """Join the parts in this order into a file. A repeated completion returns the same file.

    A failed completion leaves the upload pending, so that it can be repeated with the right parts or md5. Raise
    NoSuchUpload, UploadEnded, WrongParts, WrongMd5, TooManyRequests.
    """
    digest = None if md5 is None else _as_md5(md5)
    async with context.uploads.turn(caller.project_id):  # joining takes as much memory as receiving a file
        upload = await _join(context, caller, upload_id, part_ids, digest)
    return await run_sync(_completed, context, upload, part_ids)


async def _join(
    context: Context, caller: Caller, upload_id: str, part_ids: Sequence[str], digest: str | None
) -> Upload:
    """Join the parts of a pending upload into a file, and return the upload as it then is."""
    upload, parts = await run_sync(_begin_completion, context, caller, upload_id, part_ids)
    if upload.status == PENDING:
        try:
            joined = await files.store(context, caller.project_id, _joined(context, parts, digest))
        except ObjectMissing:  # for example, a concurrent completion finished first and removed the parts
            upload = (await run_sync(get, context, caller, upload_id)).upload
            if upload.status == PENDING:
                raise
        else:
            upload = await run_sync(_finish, context, upload, part_ids, joined)
            unused = [part.storage_key for part in parts] if upload.file_id == joined.id else [joined.storage_key]
            await run_sync(delete_unused, partial(context.storage.delete, unused))
    return upload


def _begin_completion(
    context: Context, caller: Caller, upload_id: str, part_ids: Sequence[str]
) -> tuple[Upload, list[UploadPart]]:
    with context.database.write() as session:
        upload = locked(session, caller, upload_id)
        return upload, _in_order(session, upload, part_ids) if upload.status == PENDING else []


def _finish(context: Context, pending: Upload, part_ids: Sequence[str], joined: NewFile) -> Upload:
    """Make the object a file and complete the upload with it, unless another request has ended the upload. Return the
    upload."""
    with context.database.write() as session:
        upload = uploads.lock(session, pending.project_id, pending.id, expire=False)
        assert upload is not None, pending.id
        if upload.status in (PENDING, EXPIRED):  # the completion began in time, so it may end after the expiry
            files.add(
                session,
                joined,
                project_id=upload.project_id,
                key_id=upload.key_id,
                filename=upload.filename,
                purpose=upload.purpose,
                expires_after_s=upload.file_expires_after_s,
            )
            upload.status, upload.file_id, upload.part_ids = COMPLETED, joined.id, list(part_ids)
            session.flush()
    files.ring_for_scan(context, joined.id)
    return upload


def _completed(context: Context, upload: Upload, part_ids: Sequence[str]) -> UploadView:
    """Return the upload with its file. Raise UploadEnded unless it was completed with exactly these parts."""
    if upload.status != COMPLETED or upload.part_ids != list(part_ids):
        raise UploadEnded(upload)
    with context.database.read() as session:
        return _view(session, upload)


def _in_order(session: Session, upload: Upload, part_ids: Sequence[str]) -> list[UploadPart]:
    if len(set(part_ids)) < len(part_ids):
        raise WrongParts("part_ids names a part twice")
    known = {part.id: part for part in uploads.parts_of(session, upload.id)}
    for part_id in part_ids:
        if part_id not in known:
            raise WrongParts(f"{upload.id} has no part '{part_id[:64]}'")
    parts = [known[part_id] for part_id in part_ids]
    total = sum(part.bytes for part in parts)
    if total != upload.bytes:
        raise WrongParts(
            f"The parts have {total} bytes together, but the upload was announced with {upload.bytes} bytes"
        )
    return parts


async def _joined(context: Context, parts: Sequence[UploadPart], digest: str | None) -> AsyncIterator[bytes]:
    """Yield the bytes of all parts. If their MD5 is not `digest`, raise WrongMd5 at the end, so that no object is
    stored."""
    whole = hashlib.md5(usedforsecurity=False)
    for part in parts:
        async for chunk in context.storage.stream(part.storage_key, chunk_bytes=JOINED_BYTES):
            if digest is not None:
                await run_sync(whole.update, chunk)  # takes milliseconds, too long for the event loop
            yield chunk
    if digest is not None and whole.hexdigest() != digest:
        raise WrongMd5(f"The md5 of the parts is {whole.hexdigest()}, not {digest}: the upload is still pending")


def _as_md5(text: str) -> str:
    """Return the digest in lower case without whitespace. Raise WrongMd5 unless it is hexadecimal."""
    digest = text.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{32}", digest):
        raise WrongMd5("md5 is not 32 hexadecimal digits")
    return digest


def cancel(context: Context, caller: Caller, upload_id: str) -> UploadView:
    with context.database.write() as session:
        upload = locked(session, caller, upload_id)
        parts = uploads.parts_of(session, upload_id)
        was = upload.status
        if was == PENDING:
            upload.status = CANCELLED
            session.flush()
    if was not in (PENDING, CANCELLED):
        raise UploadEnded(upload)
    delete_unused(partial(context.storage.delete, [part.storage_key for part in parts]))
    return UploadView(upload, None)


def locked(session: Session, caller: Caller, upload_id: str) -> Upload:
    upload = uploads.lock(session, caller.project_id, upload_id)
    if upload is None:
        raise NoSuchUpload(upload_id)
    return upload


def _view(session: Session, upload: Upload) -> UploadView:
    file = file_records.get(session, upload.project_id, upload.file_id) if upload.file_id else None
    return UploadView(upload, file)
