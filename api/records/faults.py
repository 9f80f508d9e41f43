"""Counts of the faults that ended a job's attempts. They limit its retries.

The counts restart from 0 when the job makes progress, so that faults days apart do not fail a long job. Progress is a
newer saved state; steps alone are no progress, because every attempt may train the same steps again.
"""

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from api.records.base import current_time
from api.records.jobs import Job
from api.spec.fields import JsonObject
from api.spec.lifecycle import JobStatus

EXCUSED = "excused"
"""Name of the count of faults that the job did not cause. These faults use up no retry, but lengthen the next
back-off."""
_DEATHS = ("died_at_step", "deaths")
"""Entries about the trainer's deaths at one step. A newer saved state does not reset them."""


def count(session: Session, job_id: str, reason: str) -> int:
    """Count an attempt that ended for this reason. Return the count since the job last made progress."""
    faults = _since_progress(session, job_id)
    faults[reason] = faults.get(reason, 0) + 1
    session.execute(update(Job).where(Job.id == job_id).values(faults=faults))
    return int(faults[reason])


def count_death(session: Session, job_id: str, step: int) -> int:
    """Count a death of the trainer at this step. Return the number of consecutive deaths at this step."""
    faults = _since_progress(session, job_id)
    deaths = faults.get("deaths", 0) + 1 if faults.get("died_at_step") == step else 1
    faults |= {"died_at_step": step, "deaths": deaths}
    session.execute(update(Job).where(Job.id == job_id).values(faults=faults))
    return int(deaths)


def avoid(session: Session, job_id: str, owner: str | None, for_s: float) -> None:
    """For `for_s` seconds, leave the job's next attempt to workers other than `owner`, if there are any."""
    faults = _since_progress(session, job_id) | {"avoid": {"owner": owner, "until": current_time(session) + for_s}}
    session.execute(update(Job).where(Job.id == job_id).values(faults=faults))


def _since_progress(session: Session, job_id: str) -> JsonObject:
    job = session.execute(select(Job.status, Job.state, Job.faults).where(Job.id == job_id)).one()
    reached = -1 if job.status == JobStatus.VALIDATING_FILES else (job.state or {}).get("step", 0)
    faults = dict(job.faults)
    if faults.get("reached", reached) < reached:
        faults = {name: value for name, value in faults.items() if name in _DEATHS}
    return faults | {"reached": reached}
