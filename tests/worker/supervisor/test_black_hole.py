"""A worker that fails whatever it takes, beside a healthy one: jobs go to the other, and lose nothing."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from api.records import faults, job_queue, jobs, workers
from api.records.base import db_now
from api.records.database import Database
from api.records.job_queue import Attempt
from api.records.jobs import Job
from api.spec.lifecycle import FailureReason, JobStatus, Stage
from tests.factories import a_job, a_project
from tests.worker.supervisor.clock import Clock
from tests.worker.supervisor.conftest import Workshop
from worker.supervisor.faults import AttemptFailed, retry_or_fail
from worker.supervisor.loop import claim_next, run_attempt, work_once
from worker.supervisor.node import Node
from worker.supervisor.pause import PAUSES_S, Pause

FILE_ROWS = b'{"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]}\n' * 12


@pytest.fixture
def second(workshop: Workshop, tmp_path: Path) -> Node:
    """A prepare worker with a work folder of its own."""
    settings = workshop.context.settings.model_copy(update={"work_dir": tmp_path / "second"})
    node = Node.open(replace(workshop.context, settings=settings), Stage.PREPARE)
    node.pause = Pause(node.find_problem, Clock())
    return node


def register(database: Database, owner: str, stage: Stage, held: str | None = None) -> None:
    with database.write() as session:
        workers.register(session, owner=owner, stage=stage, held=held)


def test_a_worker_without_its_folder_takes_no_job(workshop: Workshop, second: Node) -> None:
    ids = [workshop.submit(FILE_ROWS) for _ in range(12)]
    shutil.rmtree(second.context.settings.work)
    while work_once(workshop.prepare, workshop.prepare.slots.first):
        assert not work_once(second, second.slots.first)
    assert second.pause.reason is not None
    assert "gone" in second.pause.reason
    assert {workshop.job(job_id).status for job_id in ids} == {JobStatus.QUEUED}
    assert [workshop.job(job_id).faults for job_id in ids] == [{}] * 12
    with workshop.context.database.read() as session:
        owners = session.execute(select(Attempt.owner, func.count()).group_by(Attempt.owner)).all()
    assert [tuple(each) for each in owners] == [(workshop.prepare.owner, 12)]


def test_a_job_whose_worker_loses_its_folder_is_charged_nothing_and_goes_to_another(
    workshop: Workshop, second: Node
) -> None:
    job_id = workshop.submit(FILE_ROWS)
    for node in (workshop.prepare, second):
        register(workshop.context.database, node.owner, Stage.PREPARE)
    claim = claim_next(second, second.slots.first)
    assert claim is not None
    shutil.rmtree(second.context.settings.work)
    run_attempt(second, claim, second.slots.first)
    assert workshop.job(job_id).faults["excused"] == 1
    assert second.pause.reason is not None
    with workshop.context.database.write() as session:
        session.execute(update(Job).values(run_after=None))
    assert claim_next(second, second.slots.first) is None
    assert claim_next(workshop.prepare, workshop.prepare.slots.first) is not None


def test_a_folder_that_comes_back_is_worked_in_again(second: Node, tmp_path: Path) -> None:
    clock = Clock()
    second.pause = Pause(second.find_problem, clock)
    second.context.settings.work.rename(tmp_path / "away")
    assert not second.pause.may_work()
    (tmp_path / "away").rename(second.context.settings.work)
    clock.now += PAUSES_S[-1]
    assert second.pause.may_work()
    shutil.rmtree(second.folder)  # somebody cleaned up: the lock is still ours
    assert second.pause.may_work()
    assert second.folder.is_dir()


def test_another_workers_folder_in_the_same_place_is_not_ours(second: Node, tmp_path: Path) -> None:
    work = second.context.settings.work
    work.rename(tmp_path / "away")
    Node.open(second.context, Stage.PREPARE)
    assert "replaced" in (second.find_problem() or "")


def failed_by(database: Database, owner: str, reason: FailureReason, stage: Stage = Stage.TRAIN) -> str:
    """A job that this worker failed, and that may be claimed again."""
    status = JobStatus.QUEUED if stage is Stage.TRAIN else JobStatus.VALIDATING_FILES
    job_id = a_job(database, a_project(database), status)
    with database.write() as session:
        claim = job_queue.claim(session, stage, owner=owner, lease_s=60, gpus=0)
    assert claim is not None
    assert claim.job_id == job_id
    with database.write() as session:
        retry_or_fail(session, jobs.lock_for_attempt(session, job_id, claim.fence), AttemptFailed(reason))
        session.execute(update(Job).values(run_after=None))
    return job_id


def claims(database: Database, owner: str, stage: Stage = Stage.TRAIN) -> bool:
    with database.write() as session:
        claim = job_queue.claim(session, stage, owner=owner, lease_s=60, gpus=0)
        session.rollback()
    return claim is not None


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("reason", [FailureReason.INTERNAL, FailureReason.STORAGE_UNAVAILABLE])
def test_a_retry_prefers_another_worker(database: Database, stage: Stage, reason: FailureReason) -> None:
    for owner in ("mine", "other"):
        register(database, owner, stage)
    job_id = failed_by(database, "mine", reason, stage)
    assert not claims(database, "mine", stage)
    assert claims(database, "other", stage)
    with database.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(faults={"avoid": {"owner": "mine", "until": 1.0}}))
    assert claims(database, "mine", stage), "better here again than never"


@pytest.mark.parametrize("other", ["none", "of the other stage", "on hold", "silent", "with fewer GPUs"])
def test_a_retry_waits_for_no_worker_that_could_not_take_it(database: Database, other: str) -> None:
    register(database, "mine", Stage.TRAIN)
    if other != "none":
        stage = Stage.PREPARE if other == "of the other stage" else Stage.TRAIN
        register(database, "other", stage, held="its disk is full" if other == "on hold" else None)
    job_id = failed_by(database, "mine", FailureReason.INTERNAL)
    with database.write() as session:
        if other == "silent":
            session.execute(update(workers.Worker).values(seen_at=db_now() - 1000))
        if other == "with fewer GPUs":
            session.execute(update(Job).where(Job.id == job_id).values(gpus=1))
        claim = job_queue.claim(session, Stage.TRAIN, owner="mine", lease_s=60, gpus=1)
    assert claim is not None


def test_progress_forgets_whom_to_avoid(database: Database) -> None:
    job_id = failed_by(database, "mine", FailureReason.INTERNAL)
    with database.write() as session:
        state = {"step": 5, "prefix": "states/5"}
        session.execute(update(Job).where(Job.id == job_id).values(state=state))
    with database.write() as session:
        faults.count(session, job_id, FailureReason.INTERNAL)
        assert "avoid" not in session.scalars(select(Job.faults).where(Job.id == job_id)).one()
