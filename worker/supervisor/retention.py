"""Deletion of stored data that is no longer needed. What an unfinished job needs is never deleted.

Everything is deleted in small batches, so that other workers and the API never wait long. Rows are deleted before their
objects. An object whose deletion then fails is an orphan, which `attune storage collect` deletes. The states and logs
of a job and the parts of an upload are deleted before their rows are changed, so that the next sweep repeats a deletion
that failed.
"""

from collections.abc import Callable
from functools import partial

import structlog
from sqlalchemy.orm import Session

from api.context import Context
from api.infra.storage import StorageUnavailable
from api.records import (
    arrays,
    batches,
    charted_steps,
    eval_runs,
    events,
    files,
    idempotency,
    job_queue,
    jobs,
    judgements,
    models,
    pages,
    permissions,
    uploads,
    webhook_deliveries,
    workers,
)
from api.records.files import File
from api.records.models import Checkpoint

log = structlog.get_logger(__name__)

INTERVAL_S = 300
"""Seconds between two searches for data that is older than the settings allow. Other data is deleted in each sweep."""
UPLOAD_GRACE_S = 900
"""How long the completion of an upload may take if it started before the upload expired."""
DAY_S = 24 * 3600
KEEP_WORKERS_S = 30 * DAY_S
KEEP_UPLOADS_S = 30 * DAY_S
"""Seconds after its expiry for which an upload is kept, so that a repeated completion returns its file."""
KEEP_CURSORS_S = 30 * DAY_S
"""Seconds for which the id of a deleted row still works as a position in a list (`after`)."""


def delete_expired(context: Context) -> None:
    """Delete the states of ended jobs, expired uploads and files, and other rows that have expired."""
    with context.database.write() as session:
        idempotency.delete_expired(session)
        workers.delete_unseen(session, KEEP_WORKERS_S)
        pages.forget_deleted(session, KEEP_CURSORS_S)
    _do_each(*(partial(task, context) for task in (delete_ended_states, expire_uploads, remove_expired_files)))


def delete_old(context: Context) -> None:
    """Delete data that is older than the settings `keep_…_days` allow. 0 days: keep it."""
    settings = context.settings
    with context.database.write() as session:
        uploads.delete_old(session, KEEP_UPLOADS_S)
        if settings.keep_batches_days:
            batches.delete_ended(session, settings.keep_batches_days * DAY_S)
        if settings.keep_eval_runs_days:
            eval_runs.delete_old(session, settings.keep_eval_runs_days * DAY_S)
        if settings.keep_deliveries_days:
            webhook_deliveries.delete_ended(session, settings.keep_deliveries_days * DAY_S)
    kept: tuple[tuple[float, Callable[[Context, float], None]], ...] = (
        (settings.keep_judgements_days, remove_old_judgements),
        (settings.keep_events_days, remove_old_events),
        (settings.keep_files_days, expire_old_files),
        (settings.keep_arrays_days, remove_old_arrays),
        (settings.keep_checkpoints_days, remove_old_checkpoints),
        (settings.keep_logs_days, remove_old_logs),
    )
    _do_each(*(partial(remove, context, days * DAY_S) for days, remove in kept if days))


def _do_each(*tasks: Callable[[], None]) -> None:
    """Do each task, even if the storage refuses the deletions of another: a bucket may forbid some for years. Raise
    StorageUnavailable if it refused any."""
    refused: StorageUnavailable | None = None
    for task in tasks:
        try:
            task()
        except StorageUnavailable as error:
            refused = error
    if refused is not None:
        raise refused


def delete_ended_states(context: Context) -> None:
    """Delete the saved states of jobs that have ended."""
    with context.database.read() as session:
        ended = jobs.ended_with_state(session)
    for job_id in ended:
        context.storage.delete_prefix(f"states/{job_id}")
        with context.database.write() as session:
            jobs.clear_state(session, job_id)


def expire_uploads(context: Context, grace_s: float = UPLOAD_GRACE_S) -> None:
    """Expire uploads that were not completed in time, and delete the parts of uploads that have ended."""
    with context.database.write() as session:
        uploads.expire(session)
    with context.database.read() as session:
        ended = uploads.ended_with_parts(session, grace_s)
    for upload_id in ended:
        context.storage.delete_prefix(f"uploads/{upload_id}")
        with context.database.write() as session:
            uploads.delete_parts(session, upload_id)


def remove_expired_files(context: Context) -> None:
    """Delete expired files that no unfinished job, batch or run of an eval needs."""
    with context.database.write() as session:
        expired = [file for file in files.expired(session) if not _in_use(session, file)]
        for file in expired:
            files.remove(session, file)
    context.storage.delete([file.storage_key for file in expired if file.storage_key is not None])
    if expired:
        log.info("expired_files_removed", count=len(expired))


def _in_use(session: Session, file: File) -> bool:
    users = (jobs.using_file, batches.using_file, eval_runs.using_file)
    return any(using_file(session, file.project_id, file.id) for using_file in users)


def expire_old_files(context: Context, keep_s: float) -> None:
    """Let old uploaded files expire. The sweep deletes them once no unfinished job needs them."""
    with context.database.write() as session:
        count = files.expire_old(session, keep_s)
    if count:
        log.info("old_files_expired", count=count)


def remove_old_arrays(context: Context, keep_s: float) -> None:
    """Delete old arrays that no unfinished job needs. A job that needs them again rebuilds them."""
    with context.database.write() as session:
        old = arrays.old_and_unused(session, keep_s, jobs.arrays_in_use(session))
        arrays.remove(session, old)
    context.storage.delete([row.storage_key for row in old])
    if old:
        log.info("old_arrays_removed", count=len(old))


def remove_old_checkpoints(context: Context, keep_s: float) -> None:
    """Delete the checkpoints of jobs that ended long ago, except those that a job, an adapter or a permission names."""
    with context.database.read() as session:
        ids = models.old_checkpoints(session, keep_s)
    for checkpoint_id in ids:
        with context.database.write() as session:
            checkpoint = remove_unnamed(session, checkpoint_id)
        if checkpoint is None:
            continue
        context.storage.delete([artifact["key"] for artifact in checkpoint.artifacts])
        log.info("old_checkpoint_removed", model=checkpoint.model_id)


def remove_unnamed(session: Session, checkpoint_id: str) -> Checkpoint | None:
    """Remove the row of a checkpoint unless an unfinished job, an adapter or a permission names it. Return the
    checkpoint, whose objects the caller deletes after the commit; None if it is kept."""
    checkpoint = models.checkpoint_to_remove(session, checkpoint_id)
    if checkpoint is None or _is_named(session, checkpoint):
        return None
    models.remove_checkpoints(session, [checkpoint])
    return checkpoint


def _is_named(session: Session, checkpoint: Checkpoint) -> bool:
    return bool(
        models.referenced_by(session, checkpoint.model_id)
        or models.adapters_on(session, checkpoint.project_id, checkpoint.model_id)
        or permissions.exist_on(session, checkpoint.model_id)
    )


def remove_old_logs(context: Context, keep_s: float) -> None:
    """Delete the logs of jobs that ended more than `keep_s` ago."""
    with context.database.read() as session:
        old = job_queue.with_expired_logs(session, keep_s)
    for job_id in old:
        context.storage.delete_prefix(f"logs/{job_id}")
        with context.database.write() as session:
            job_queue.clear_logs(session, job_id)


def remove_old_events(context: Context, keep_s: float) -> None:
    """Delete the events of jobs that ended more than `keep_s` ago. Each transaction deletes one batch, because a job
    may have a million events."""
    while True:
        with context.database.read() as session:
            ended = jobs.ended_with_events(session, keep_s)
        if not ended:
            return
        with context.database.write() as session:
            charted_steps.delete_of(session, ended)
            events.delete_of(session, ended)


def remove_old_judgements(context: Context, keep_s: float) -> None:
    """Delete old stored answers of judges (`judgements`). Each transaction deletes one batch."""
    deleted = True
    while deleted:
        with context.database.write() as session:
            deleted = judgements.delete_old(session, keep_s) > 0
