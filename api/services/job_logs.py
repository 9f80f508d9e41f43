"""The logs of a job, attempt by attempt. worker/supervisor/logs.py stores the logs."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

from api.context import Caller, Context
from api.infra.storage import ObjectMissing
from api.records import job_queue
from api.records.job_queue import Attempt
from api.records.jobs import Job
from api.services import jobs

ACTIVITY = {"prepare": "preparing", "train": "training"}


def read(context: Context, caller: Caller, job_id: str) -> AsyncIterator[bytes]:
    """Return the logs of all attempts so far, oldest first, each below a line with its start, worker and outcome; then
    the job's error, if the job failed.

    Raise NoSuchJob. Iterating may raise StorageUnavailable.
    """
    job = jobs.get(context, caller, job_id)
    with context.database.read() as session:
        attempts = job_queue.attempts_of(session, job_id)
    return _joined(context, job, attempts)


async def _joined(context: Context, job: Job, attempts: Sequence[Attempt]) -> AsyncIterator[bytes]:
    for attempt in attempts:
        yield f"=== {_title(attempt)}\n".encode()
        if attempt.log_bytes is None:
            continue
        end = b"\n"
        try:
            async for chunk in context.storage.stream(job_queue.log_key(attempt.job_id, attempt.fence)):
                yield chunk
                end = chunk or end
        except ObjectMissing:
            yield b"[not stored any more]\n"
        if not end.endswith(b"\n"):
            yield b"\n"
    if job.error:  # it may be in no log, for example if the rows were invalid
        yield f"=== failed: {job.error['message']}\n".encode()


def _title(attempt: Attempt) -> str:
    began = datetime.fromtimestamp(attempt.started_at, UTC).isoformat(timespec="seconds")
    ended = "so far" if attempt.ended_at is None else attempt.outcome
    return f"{ACTIVITY[attempt.stage]} from {began} on {attempt.owner}: {ended}"
