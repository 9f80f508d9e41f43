"""Queries for an operator's monitoring, over all projects. They are cheap: they read indexes or small tables."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.records import job_queue, scans, stored_bytes, workers
from api.records.arrays import Arrays
from api.records.base import db_now
from api.records.base_models import BaseModelRow
from api.records.events import MAX_SEQ, Event, of_job
from api.records.files import File
from api.records.jobs import Job
from api.records.usage import FLOWS, Usage
from api.records.webhook_deliveries import Delivery
from api.records.workers import Worker
from api.spec.fields import JsonObject
from api.spec.lifecycle import JobStatus, Stage

SILENT_S = 3600
"""Seconds for which a worker that stopped reporting is still shown."""


def backlog(session: Session) -> Mapping[str, tuple[int, float]]:
    """Return {stage: (number of waiting jobs, age of the oldest in seconds)}; `scan` is the stage of files that wait
    for a scan."""
    age = func.coalesce(db_now() - func.min(Job.created_at), 0.0)
    found = {
        stage.value: session.execute(select(func.count(), age).where(job_queue.is_waiting(stage))).one()
        for stage in Stage
    }
    file_age = func.coalesce(db_now() - func.min(File.created_at), 0.0)
    found["scan"] = session.execute(select(func.count(), file_age).where(scans.is_waiting())).one()
    return {stage: (int(count), float(oldest)) for stage, (count, oldest) in found.items()}


def jobs_by_status(session: Session) -> dict[str, int]:
    rows = session.execute(select(Job.status, func.count()).group_by(Job.status))
    return {status: int(count) for status, count in rows}


def failures_by_code(session: Session) -> dict[str, int]:
    """Return the number of failed jobs by `error.code`."""
    code = func.coalesce(Job.error["code"].as_string(), "unknown")
    rows = session.execute(select(code, func.count()).where(Job.status == JobStatus.FAILED).group_by(code))
    return {name: int(count) for name, count in rows}


def beats(session: Session) -> list[tuple[Worker, bool, float]]:
    """Return the workers that did not shut down cleanly, each with whether it is live and the seconds since its last
    report (`Worker.seen_at`).

    Workers that have been silent for SILENT_S are left out.
    """
    query = select(Worker, workers.live(), db_now() - Worker.seen_at)
    query = query.where(Worker.seen_at > db_now() - SILENT_S, Worker.stopped_at.is_(None)).order_by(Worker.owner)
    return [(worker, bool(live), float(age)) for worker, live, age in session.execute(query)]


def newest_step(session: Session, job_id: str) -> JsonObject | None:
    """Return the metrics of the job's newest step."""
    query = select(Event.data).where(of_job(session, job_id, 0), Event.seq <= MAX_SEQ, Event.type == "metrics")
    return session.scalar(query.order_by(Event.job_id.desc(), Event.seq.desc()).limit(1))


def base_of(session: Session, job_id: str) -> str:
    return session.scalars(select(Job.base_model).where(Job.id == job_id)).one()


def bytes_by_kind(session: Session) -> dict[str, int]:
    """Return {kind: bytes of all stored objects of this kind whose size is recorded}."""
    totals = {
        kind: sum(int(size) for *_, size in session.execute(query.group_by(*list(query.selected_columns)[:2])))
        for kind, query in stored_bytes.OWNED.items()
    }
    totals["arrays"] = int(session.scalar(select(func.coalesce(func.sum(Arrays.bytes), 0))) or 0)
    bases = {base.digest: base.artifacts for base in session.scalars(select(BaseModelRow))}
    totals["base"] = sum(artifact["bytes"] for artifacts in bases.values() for artifact in artifacts)
    return totals


def deliveries_by_status(session: Session) -> dict[str, int]:
    rows = session.execute(select(Delivery.status, func.count()).group_by(Delivery.status))
    return {status: int(count) for status, count in rows}


def total_usage(session: Session) -> dict[str, Any]:
    """Return the sums of the whole usage ledger."""
    sums = [func.coalesce(func.sum(getattr(Usage, name)), 0).label(name) for name in FLOWS]
    return dict(session.execute(select(*sums)).mappings().one())
