"""Deletion of stored data that is no longer needed. What an unfinished job needs is never deleted.

Everything is deleted in small batches, so that other workers and the API never wait long. Rows are deleted before their
objects. An object whose deletion then fails is an orphan, which `attune storage collect` deletes. The states and logs
of a job and the parts of an upload are deleted before their rows are changed, so that a later sweep repeats a deletion
that failed. Each sweep chooses some of these at random, so that those whose deletion is refused keep no others from
their turn.
"""

from collections.abc import Callable, Iterable
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
MAX_REFUSALS = 3
"""Deletions that the storage may refuse before a task gives up until it runs again."""
UPLOAD_GRACE_S = 900
"""How long the completion of an upload may take if it started before the upload expired."""
DAY_S = 24 * 3600
KEEP_WORKERS_S = 30 * DAY_S
KEEP_UPLOADS_S = 30 * DAY_S
"""Seconds after its expiry for which an upload is kept, so that a repeated completion returns its file."""
KEEP_CURSORS_S = 30 * DAY_S
"""Seconds for which the id of a deleted row still works as a position in a list (`after`)."""


def each_sweep(context: Context) -> "list[partial[None]]":
    """Return the tasks that delete the states of ended jobs, expired uploads and files, and other rows that have
    expired. The caller does each of them even if another fails: a bucket may forbid some deletions for years."""
    tasks = (delete_expired_rows, delete_ended_states, expire_uploads, remove_expired_files)
    return [partial(task, context) for task in tasks]


def each_interval(context: Context) -> "list[partial[None]]":
    """Return the tasks that delete data older than the settings `keep_…_days` allow. 0 days: keep it."""
    settings = context.settings
    kept: tuple[tuple[float, Callable[[Context, float], None]], ...] = (
        (settings.keep_judgements_days, remove_old_judgements),
        (settings.keep_events_days, remove_old_events),
        (settings.keep_files_days, expire_old_files),
        (settings.keep_arrays_days, remove_old_arrays),
        (settings.keep_checkpoints_days, remove_old_checkpoints),
        (settings.keep_logs_days, remove_old_logs),
    )
    return [partial(delete_old_rows, context), *(partial(task, context, days * DAY_S) for days, task in kept if days)]


def delete_expired_rows(context: Context) -> None:
    with context.database.write() as session:
        idempotency.delete_expired(session)
        workers.delete_unseen(session, KEEP_WORKERS_S)
        pages.forget_deleted(session, KEEP_CURSORS_S)


def delete_old_rows(context: Context) -> None:
    settings = context.settings
    with context.database.write() as session:
        uploads.delete_old(session, KEEP_UPLOADS_S)
        if settings.keep_batches_days:
            batches.delete_ended(session, settings.keep_batches_days * DAY_S)
        if settings.keep_eval_runs_days:
            eval_runs.delete_old(session, settings.keep_eval_runs_days * DAY_S)
        if settings.keep_deliveries_days:
            webhook_deliveries.delete_ended(session, settings.keep_deliveries_days * DAY_S)


def _delete_each(names: Iterable[str], delete: Callable[[str], None]) -> None:
    """Call `delete` with each name, even if the storage refuses the deletion of others. Raise StorageUnavailable after
    MAX_REFUSALS, because each may be a time-out."""
    refusals = 0
    for name in names:
        try:
            delete(name)
        except StorageUnavailable as error:
            refusals += 1
            log.warning("deletion_refused", error=str(error))
            if refusals == MAX_REFUSALS:
                raise


def _delete_objects(context: Context, keys: Iterable[str]) -> None:
    _delete_each(keys, lambda key: context.storage.delete([key]))


def delete_ended_states(context: Context) -> None:
    """Delete the saved states of jobs that have ended."""
    with context.database.read() as session:
        ended = jobs.ended_with_state(session)

    def delete(job_id: str) -> None:
        context.storage.delete_prefix(f"states/{job_id}")
        with context.database.write() as session:
            jobs.clear_state(session, job_id)

    _delete_each(ended, delete)


def expire_uploads(context: Context, grace_s: float = UPLOAD_GRACE_S) -> None:
    """Expire uploads that were not completed in time, and delete the parts of uploads that have ended."""
    with context.database.write() as session:
        uploads.expire(session)
    with context.database.read() as session:
        ended = uploads.ended_with_parts(session, grace_s)

    def delete(upload_id: str) -> None:
        context.storage.delete_prefix(f"uploads/{upload_id}")
        with context.database.write() as session:
            uploads.delete_parts(session, upload_id)

    _delete_each(ended, delete)


def remove_expired_files(context: Context) -> None:
    """Delete expired files that no unfinished job, batch or run of an eval needs."""
    with context.database.write() as session:
        expired = [file for file in files.expired(session) if not _in_use(session, file)]
        for file in expired:
            files.remove(session, file)
    if expired:
        log.info("expired_files_removed", count=len(expired))
    _delete_objects(context, [file.storage_key for file in expired if file.storage_key is not None])


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
    if old:
        log.info("old_arrays_removed", count=len(old))
    _delete_objects(context, [row.storage_key for row in old])


def remove_old_checkpoints(context: Context, keep_s: float) -> None:
    """Delete the checkpoints of jobs that ended long ago, except those that a job, an adapter or a permission names."""
    with context.database.read() as session:
        ids = models.old_checkpoints(session, keep_s)

    def delete(checkpoint_id: str) -> None:
        with context.database.write() as session:
            checkpoint = remove_unnamed(session, checkpoint_id)
        if checkpoint is not None:
            log.info("old_checkpoint_removed", model=checkpoint.model_id)
            context.storage.delete([artifact["key"] for artifact in checkpoint.artifacts])

    _delete_each(ids, delete)


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

    def delete(job_id: str) -> None:
        context.storage.delete_prefix(f"logs/{job_id}")
        with context.database.write() as session:
            job_queue.clear_logs(session, job_id)

    _delete_each(old, delete)


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
