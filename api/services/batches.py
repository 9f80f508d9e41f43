"""Batches: creation, cancellation and lists. api/batch_worker answers their requests."""

from sqlalchemy.orm import Session

from api.context import Caller, Context
from api.errors import DO_NOT_RETRY, InvalidRequest, NotFound, TooManyRequests
from api.records import batches, projects
from api.records.base import current_time, db_now
from api.records.batch_items import QUEUE
from api.records.batches import Batch
from api.records.pages import Page
from api.services.files import require_usable
from api.spec.batch import BATCH_FINAL, WINDOW_S, BatchStatus
from api.spec.ids import new_id

PURPOSE = "batch"


class NoSuchBatch(NotFound):
    param = "batch_id"

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"No such Batch object: {batch_id[:64]}")


class BatchEnded(InvalidRequest):
    """The batch has ended. The HTTP status is 400, because OpenAI's clients retry a 409."""

    code = "invalid_batch_state"

    def __init__(self, batch: Batch) -> None:
        super().__init__(f"{batch.id} is {batch.status}: only a batch that has not ended can be cancelled")


def create(
    context: Context,
    caller: Caller,
    *,
    input_file: str,
    endpoint: str,
    pairs: dict[str, str] | None,
    output_expires_s: int | None,
    repeated: bool = False,
) -> Batch:
    """Insert a batch, which a batch worker validates next.

    `repeated`: the client marked the request as a retry. It gets the batch that the first request created, if there is
    one. Raise InvalidRequest if the file cannot be the input, TooManyRequests if the project has too many batches.
    """
    batch = Batch(
        id=new_id("batch_"),
        project_id=caller.project_id,
        key_id=caller.key_id,
        endpoint=endpoint,
        input_file=input_file,
        output_expires_s=output_expires_s,
        pairs=pairs,
        status=BatchStatus.VALIDATING,
        created_at=db_now(),
        expires_at=db_now() + WINDOW_S,
        due_at=db_now(),
    )
    with context.database.write() as session:
        projects.lock(session, caller.project_id)
        if repeated and (first := batches.newest_like(session, batch, context.settings.retried_create_s)):
            return first
        _require_few(context, session, caller)
        limit = context.settings.max_batch_bytes
        require_usable(session, caller, input_file, purpose=PURPOSE, param="input_file_id", max_bytes=limit)
        session.add(batch)
        session.flush()
        session.refresh(batch)
    return batch


def _require_few(context: Context, session: Session, caller: Caller) -> None:
    count, _ = batches.active(session, caller.project_id)
    limit = context.settings.max_active_batches
    if count >= limit:
        raise TooManyRequests(
            f"This server allows a project {limit} unfinished batches: wait for some to end, or cancel them",
            code="too_many_active_batches",
            headers=DO_NOT_RETRY,
        )


def get(context: Context, caller: Caller, batch_id: str) -> Batch:
    with context.database.read() as session:
        return _require(session, caller, batch_id)


def page(context: Context, caller: Caller, *, after: str | None, limit: int) -> Page[Batch]:
    with context.database.read() as session:
        return batches.page(session, caller.project_id, after=after, limit=limit)


def cancel(context: Context, caller: Caller, batch_id: str) -> Batch:
    """Cancel the batch at once: no further request is answered. A batch worker then writes the results so far to
    files."""
    with context.database.write() as session:
        batch = QUEUE.lock(session, _require(session, caller, batch_id).id)
        if batch.status in BATCH_FINAL and batch.status != BatchStatus.CANCELLED:
            raise BatchEnded(batch)
        if batch.status not in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
            batches.transition(session, batch, BatchStatus.CANCELLING, due_at=current_time(session))
    return batch


def _require(session: Session, caller: Caller, batch_id: str) -> Batch:
    batch = batches.get(session, caller.project_id, batch_id)
    if batch is None:
        raise NoSuchBatch(batch_id)
    return batch
