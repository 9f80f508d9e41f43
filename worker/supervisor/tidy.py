"""What has had its time: uploads that nobody completed, files that expired, old logs, answers kept for a day, …"""

import structlog

from api.context import Context
from api.records import files, idempotency, jobs, queue, uploads, webhooks, workers

log = structlog.get_logger(__name__)

UPLOAD_GRACE_S = 900
"""A completion that was begun in time may take so long."""
KEEP_LOGS_S = 90 * 24 * 3600
KEEP_DELIVERIES_S = 30 * 24 * 3600
KEEP_WORKERS_S = 30 * 24 * 3600


def tidy(context: Context) -> None:
    end_uploads(context)
    remove_expired_files(context)
    remove_old_logs(context)
    with context.database.write() as session:
        idempotency.forget(session)
        webhooks.forget(session, KEEP_DELIVERIES_S)
        workers.forget(session, KEEP_WORKERS_S)


def end_uploads(context: Context, grace_s: float = UPLOAD_GRACE_S) -> None:
    """Mark uploads that were not completed in time, and remove the parts of those that have ended."""
    with context.database.write() as session:
        uploads.expire(session)
    with context.database.read() as session:
        ended = uploads.ended_with_parts(session, grace_s)
    for upload_id in ended:
        context.storage.delete_prefix(f"uploads/{upload_id}")
        with context.database.write() as session:
            uploads.forget_parts(session, upload_id)


def remove_expired_files(context: Context) -> None:
    """All but those that a job which has not ended needs."""
    with context.database.write() as session:
        gone = [file for file in files.expired(session) if not jobs.using_file(session, file.project_id, file.id)]
        for file in gone:
            files.remove(session, file)
    context.storage.delete([file.storage_key for file in gone if file.storage_key is not None])
    if gone:
        log.info("expired_files_removed", count=len(gone))


def remove_old_logs(context: Context, keep_s: float = KEEP_LOGS_S) -> None:
    """Of jobs that ended so long ago."""
    with context.database.read() as session:
        old = queue.with_old_logs(session, keep_s)
    for job_id in old:
        context.storage.delete_prefix(f"logs/{job_id}")
        with context.database.write() as session:
            queue.forget_logs(session, job_id)
