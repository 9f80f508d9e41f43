"""How often faults ended attempts at a job: counts on its row, from which its remaining retries follow.

They begin anew when the job makes progress, so that a long job is not failed by faults that were days apart. Progress
is a newer stored state: steps that every attempt trains again are none.
"""

from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from api.records.base import time_of
from api.records.jobs import Job
from api.spec.lifecycle import JobStatus

EXCUSED = "excused"
"""The count of faults that were none of the job's doing: they cost no retry, but lengthen the pause before the next."""
_DEATHS = ("died_at_step", "deaths")
"""Told by the step itself, stored or not."""


def count(session: Session, job_id: str, reason: str) -> int:
    """Return how often this reason has ended an attempt since the job last made progress, this time included."""
    faults = _since_progress(session, job_id)
    faults[reason] = faults.get(reason, 0) + 1
    session.execute(update(Job).where(Job.id == job_id).values(faults=faults))
    return int(faults[reason])


def count_death(session: Session, job_id: str, step: int) -> int:
    """Return how often in a row its trainer has now died at this step."""
    faults = _since_progress(session, job_id)
    deaths = faults.get("deaths", 0) + 1 if faults.get("died_at_step") == step else 1
    faults |= {"died_at_step": step, "deaths": deaths}
    session.execute(update(Job).where(Job.id == job_id).values(faults=faults))
    return int(deaths)


def avoid(session: Session, job_id: str, owner: str | None, for_s: float) -> None:
    """Leave the job's next attempt to another worker than this one for so long, if there is another."""
    faults = _since_progress(session, job_id) | {"avoid": {"owner": owner, "until": time_of(session) + for_s}}
    session.execute(update(Job).where(Job.id == job_id).values(faults=faults))


def _since_progress(session: Session, job_id: str) -> dict[str, Any]:
    job = session.execute(select(Job.status, Job.state, Job.faults).where(Job.id == job_id)).one()
    reached = -1 if job.status == JobStatus.VALIDATING_FILES else (job.state or {}).get("step", 0)
    faults = dict(job.faults)
    if faults.get("reached", reached) < reached:
        faults = {name: value for name, value in faults.items() if name in _DEATHS}
    return faults | {"reached": reached}
