"""Files: uploads and downloads as streams, and deletion of files that no job needs."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from anyio.to_thread import run_sync
from pydantic import Field
from sqlalchemy.orm import Session

from api.context import Caller, Context
from api.errors import InvalidRequest, NotFound, ServiceError, TooLarge
from api.infra.artifacts import stream_tar, trained_artifacts
from api.infra.storage import StoredObject
from api.infra.unused_objects import delete_unused
from api.records import batches, eval_runs, files, jobs, models, scans
from api.records.base import db_now
from api.records.files import File
from api.records.pages import Page
from api.services import project_limits
from api.spec.fields import StrictModel
from api.spec.ids import new_id
from api.spec.lifecycle import Stage

PURPOSES = ("fine-tune", "batch", "evals")
"""Purposes of uploads. Jobs create files with purpose `fine-tune-results`, batches with purpose `batch_output`."""


class NoSuchFile(NotFound):
    param = "id"

    def __init__(self, file_id: str) -> None:
        super().__init__(f"No such File object: {file_id[:64]}")


class FileInUse(InvalidRequest):
    code = "file_in_use"


class ExpiresAfter(StrictModel):
    """Expiry of a file, in seconds after its creation."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=2_592_000)


@dataclass(frozen=True)
class NewFile:
    """A stored object for which there is no row yet."""

    id: str
    storage_key: str
    stored: StoredObject


@dataclass(frozen=True)
class FileRequest:
    """The request of an upload, without the bytes of the file."""

    filename: str
    purpose: str
    expires_after_s: int | None


Consume = Callable[[AsyncIterator[bytes]], Awaitable[None]]


async def create(context: Context, caller: Caller, receive: Callable[[Consume], Awaitable[FileRequest]]) -> File:
    """Stream an upload to storage and insert its file. If the upload is refused, keep nothing.

    `receive` passes the file's chunks to its argument and returns the rest of the request. Raise TooLarge at the first
    chunk over the size limit, InvalidRequest for an empty file, TooManyRequests if the project has no room for it.
    """
    await run_sync(_require_room, context, caller)
    received: NewFile | None = None

    async def consume(chunks: AsyncIterator[bytes]) -> None:
        nonlocal received
        limited = limit_bytes(chunks, context.settings.max_file_bytes, what="file", param="file")
        received = await store(context, caller.project_id, limited)

    try:
        request = await receive(consume)
        if received is None or received.stored.bytes == 0:
            raise InvalidRequest("The file is empty", param="file")
    except BaseException:  # no row can name the object yet
        if received is not None:
            await run_sync(delete_unused, partial(context.storage.delete, [received.storage_key]))
        raise
    try:
        return await run_sync(_insert, context, caller, received, request)
    except ServiceError:
        # Only here is it certain that no row names the object. After any other error, and when the client disconnects,
        # the commit may have succeeded; an object without a row is left to `attune storage collect`.
        await run_sync(delete_unused, partial(context.storage.delete, [received.storage_key]))
        raise


def _require_room(context: Context, caller: Caller) -> None:
    """Raise TooManyRequests if the project has no room for another file. This is checked before the first byte is
    read."""
    with context.database.write() as session:
        project_limits.require_storage(context, session, caller.project_id, bytes_more=1, param="file")


async def limit_bytes(chunks: AsyncIterator[bytes], limit: int, *, what: str, param: str) -> AsyncIterator[bytes]:
    """Yield the chunks. Raise TooLarge as soon as they have more bytes than the limit."""
    count = 0
    async for chunk in chunks:
        count += len(chunk)
        if count > limit:
            raise TooLarge(f"The {what} is larger than {limit} bytes, the most that this server takes", param=param)
        yield chunk


def check_purpose(purpose: str) -> None:
    if purpose not in PURPOSES:
        raise InvalidRequest(f"purpose: '{purpose[:32]}' is not one of {list(PURPOSES)}", param="purpose")


async def store(context: Context, project_id: str, chunks: AsyncIterator[bytes]) -> NewFile:
    """Store the content of a file, whose row `add` inserts."""
    file_id = new_id("file-")
    key = f"files/{project_id}/{file_id}"
    return NewFile(file_id, key, await context.storage.write(key, chunks))


def _insert(context: Context, caller: Caller, received: NewFile, request: FileRequest) -> File:
    with context.database.write() as session:
        project_limits.require_storage(
            context, session, caller.project_id, bytes_more=received.stored.bytes, param="file"
        )
        file = add(
            session,
            received,
            project_id=caller.project_id,
            key_id=caller.key_id,
            filename=printable(request.filename),
            purpose=request.purpose,
            expires_after_s=request.expires_after_s,
        )
    ring_for_scan(context, file.id)
    return file


def ring_for_scan(context: Context, file_id: str) -> None:
    """Notify workers of a file to scan. If the notification is lost, a worker's next sweep finds the file."""
    context.doorbell.ring(Stage.PREPARE, file_id)


def add(
    session: Session,
    new: NewFile,
    *,
    project_id: str,
    key_id: str | None,
    filename: str,
    purpose: str,
    expires_after_s: int | None,
) -> File:
    """Insert the row of a file whose object is stored."""
    file = File(
        id=new.id,
        project_id=project_id,
        key_id=key_id,
        filename=filename,
        purpose=purpose,
        bytes=new.stored.bytes,
        sha256=new.stored.sha256,
        storage_key=new.storage_key,
        created_at=db_now(),
        expires_at=None if expires_after_s is None else db_now() + expires_after_s,
        scan_status="pending" if purpose == scans.SCANNED_PURPOSE else None,
    )
    session.add(file)
    session.flush()
    session.refresh(file)
    return file


def printable(filename: str) -> str:
    """Return the name without characters that could break a log or a terminal. Attune never uses the name as a path."""
    return ("".join(letter for letter in filename if letter.isprintable()) or "unnamed")[-255:]


def get(context: Context, caller: Caller, file_id: str) -> File:
    with context.database.read() as session:
        file = files.get(session, caller.project_id, file_id)
    if file is None:
        raise NoSuchFile(file_id)
    return file


def require_usable(
    session: Session, caller: Caller, file_id: str, *, purpose: str, param: str, max_bytes: int | None = None
) -> None:
    """Raise InvalidRequest unless the project has the file, and the file has this purpose and at most `max_bytes`. It
    cannot be removed until the transaction ends. `param`: the field of the request that names the file."""
    file = files.get_to_use(session, caller.project_id, file_id)
    if file is None:
        raise InvalidRequest(f"No such File object: {file_id[:64]}", param=param, code="file_not_found")
    if file.purpose != purpose:
        raise InvalidRequest(
            f"{file_id} has purpose '{file.purpose}': {param} must be a file with purpose '{purpose}'",
            param=param,
            code="invalid_file_purpose",
        )
    if max_bytes is not None and file.bytes > max_bytes:
        raise InvalidRequest(
            f"{file_id} has {file.bytes} bytes, and {param} may have {max_bytes}: split it into several files",
            param=param,
            code="file_too_large",
        )


def page(
    context: Context,
    caller: Caller,
    *,
    purpose: str | None,
    sha256: str | None,
    after: str | None,
    limit: int,
    newest_first: bool,
) -> Page[File]:
    with context.database.read() as session:
        return files.page(
            session,
            caller.project_id,
            purpose=purpose,
            sha256=sha256,
            after=after,
            limit=limit,
            newest_first=newest_first,
        )


def content(context: Context, caller: Caller, file: File, part: range) -> AsyncIterator[bytes]:
    """Return the bytes of the file in the range `part`, in chunks. Raise NoSuchFile if its model was deleted."""
    if file.storage_key is not None:
        return context.storage.stream(file.storage_key, part=part)
    assert file.model_id is not None, file.id
    with context.database.read() as session:
        model = models.get(session, caller.project_id, file.model_id)
    if model is None:
        raise NoSuchFile(file.id)
    return stream_tar(context.storage, trained_artifacts(model.artifacts), part)


def delete(context: Context, caller: Caller, file_id: str) -> None:
    with context.database.write() as session:
        file = files.get_to_remove(session, caller.project_id, file_id)
        if file is None:
            raise NoSuchFile(file_id)
        users = [
            *jobs.using_file(session, caller.project_id, file_id),
            *batches.using_file(session, caller.project_id, file_id),
            *eval_runs.using_file(session, caller.project_id, file_id),
        ]
        if users:
            raise FileInUse(f"{file_id} is in use: cancel {', '.join(users[:5])}, or wait for their end", param="id")
        files.remove(session, file)
    if file.storage_key is not None:
        delete_unused(partial(context.storage.delete, [file.storage_key]))
