"""Reads everything that decides when waiting jobs start, with a few queries for all jobs together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from api.records import job_queue, jobs, turns, workers
from api.records.base import current_time
from api.records.dependencies import Dependency
from api.records.files import File
from api.records.job_queue import USAGE_WINDOW_S, Lease
from api.records.jobs import Job
from api.records.workers import Worker
from api.spec.lifecycle import UNFINISHED, Stage


@dataclass(frozen=True)
class WaitingJob:
    id: str
    project: str
    stage: Stage
    """The stage of work that the job waits for."""
    created_at: float
    priority: int
    gpus: int
    work: float
    expected_s: float | None
    """Predicted seconds of the steps that the job's saved state lacks; None before the preparation."""
    run_after: float | None
    needs: str | None
    """Name of the earlier stage of the pipeline that the job waits for; None if there is none."""
    file_bytes: int
    """Size of the training file, in bytes."""


@dataclass(frozen=True)
class LiveWorker:
    owner: str
    stage: Stage
    slots: int
    gpus: int
    held: str | None
    measured: bool
    """Whether the worker's speed was measured."""


@dataclass(frozen=True)
class QueueReading:
    at: float
    """Time of the reading, by the database's clock."""
    waiting: Mapping[str, WaitingJob]
    leases: Sequence[Lease]
    workers: Sequence[LiveWorker]
    usage: Mapping[str, float]
    """Work of each project (api.records.jobs.usage)."""
    turns: Mapping[str, int]
    """Sequence number of each project's last turn of preparation (api.records.turns)."""


def read(session: Session) -> QueueReading:
    return QueueReading(
        at=current_time(session),
        waiting={job.id: job for job in _waiting(session)},
        leases=job_queue.leases(session),
        workers=_live(session),
        usage=jobs.usage(session, USAGE_WINDOW_S),
        turns=turns.last(session, "prepare"),
    )


def _waiting(session: Session) -> list[WaitingJob]:
    unmet = _unmet(session)
    rows = session.execute(
        select(
            Job.id,
            Job.project_id,
            Job.status,
            Job.created_at,
            Job.priority,
            Job.gpus,
            Job.work,
            Job.expected_s,
            Job.state["step"].as_integer().label("step"),
            Job.resolved["total_steps"].as_integer().label("total_steps"),
            Job.run_after,
            File.bytes,
        )
        .outerjoin(File, File.id == Job.training_file)
        .where(Job.status.in_([stage.waiting for stage in Stage]), Job.owner.is_(None))
    )
    return [
        WaitingJob(
            id=row.id,
            project=row.project_id,
            stage=(stage := Stage.PREPARE if row.status == Stage.PREPARE.waiting else Stage.TRAIN),
            created_at=row.created_at,
            priority=row.priority,
            gpus=row.gpus,
            work=row.work or 0.0,
            expected_s=_left_s(row.expected_s, row.step, row.total_steps),
            run_after=row.run_after,
            needs=unmet.get((row.id, stage)),
            file_bytes=row.bytes or 0,
        )
        for row in rows
    ]


def _left_s(expected_s: float | None, step: int | None, total_steps: int | None) -> float | None:
    if expected_s is None or not step or not total_steps:
        return expected_s
    return expected_s * (1 - step / total_steps)


def _unmet(session: Session) -> dict[tuple[str, str], str]:
    """Return {(job id, stage of work): name of an unfinished stage of its pipeline that the job waits for}."""
    needed = aliased(Job)
    rows = session.execute(
        select(Dependency.job_id, Dependency.stage, needed.pipeline_stage)
        .join(needed, needed.id == Dependency.needs_job_id)
        .where(needed.status.in_(UNFINISHED))
        .order_by(needed.created_at.desc(), needed.id)
    )
    return {(job_id, stage): str(name) for job_id, stage, name in rows}


def _live(session: Session) -> list[LiveWorker]:
    columns = (Worker.owner, Worker.stage, Worker.slots, Worker.gpus, Worker.held, Worker.observed.is_not(None))
    rows = session.execute(select(*columns).where(workers.live()).order_by(Worker.owner))
    return [
        LiveWorker(owner, Stage(stage), slots, gpus, held, bool(measured))
        for owner, stage, slots, gpus, held, measured in rows
    ]
