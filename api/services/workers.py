"""Workers of jobs: their hardware, whether they are live, and the jobs that they work on. Processes that take no jobs
are in api.infra.beats."""

from collections import defaultdict
from dataclasses import dataclass

from api.context import Caller, Context
from api.records import job_queue, workers
from api.records.job_queue import Lease
from api.records.workers import Worker

SHOWN_S = 24 * 3600
"""Seconds for which a worker is listed after its last sweep."""


@dataclass(frozen=True)
class WorkerView:
    """A worker, and the jobs that it works on."""

    worker: Worker
    alive: bool
    leases: list[Lease]
    caller: Caller


def listed(context: Context, caller: Caller) -> list[WorkerView]:
    """Return the workers that swept in the last SHOWN_S seconds."""
    with context.database.read() as session:
        known, held = workers.seen(session, SHOWN_S), job_queue.leases(session)
    by_owner: dict[str, list[Lease]] = defaultdict(list)
    for lease in held:
        if not lease.expired:
            by_owner[lease.owner].append(lease)
    return [WorkerView(worker, alive, by_owner[worker.owner], caller) for worker, alive in known]
