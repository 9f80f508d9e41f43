"""The ledger's promises, on both databases: what is used is counted once, whoever ends an attempt and how often."""

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from api.records import Database, job_queue, usage
from api.records.base import db_now
from api.records.job_queue import Attempt, Claim
from api.records.jobs import Job
from api.records.usage import Account, Usage
from api.spec.lifecycle import FailureReason, JobStatus, Stage
from tests.factories import a_job, a_project, the_job
from worker.supervisor.faults import AttemptFailed, retry_or_fail


def begun(database: Database, *, tokens: int, gpus: int = 0, seconds_ago: float = 100) -> Claim:
    """An attempt that began some time ago and has trained this many tokens."""
    with database.write() as session:
        claim = job_queue.claim(session, Stage.TRAIN, owner="w", lease_s=60, gpus=gpus)
        assert claim is not None
        session.execute(update(Attempt).where(Attempt.fence == claim.fence).values(started_at=db_now() - seconds_ago))
        job_queue.add_tokens(session, claim, tokens)
    return claim


def ledger(database: Database) -> list[Usage]:
    with database.read() as session:
        return list(session.scalars(select(Usage).order_by(Usage.day)))


def lose(session: Session, claim: Claim) -> None:
    job_queue.end_attempt(session, claim, FailureReason.WORKER_LOST)
    retry_or_fail(session, session.get_one(Job, claim.job_id), AttemptFailed(FailureReason.WORKER_LOST))


def test_an_attempt_is_entered_once_however_often_it_ends(database: Database) -> None:
    a_job(database, a_project(database), key_id="key_a")
    claim = begun(database, tokens=700)
    for _ in range(2):
        with database.write() as session:
            job_queue.end_attempt(session, claim, "stopped")
            job_queue.end_attempts(session, claim.job_id, "cancelled")
    (entry,) = ledger(database)
    assert (entry.key_id, entry.model, entry.trained_tokens, entry.gpu_seconds) == ("key_a", "tiny", 700, 0)
    assert entry.cpu_seconds == pytest.approx(100, abs=20)
    assert entry.day % usage.DAY_S == 0


def test_all_attempts_at_a_job_add_up(database: Database) -> None:
    job_id = a_job(database, a_project(database), key_id="key_a")
    for tokens in (300, 400):
        claim = begun(database, tokens=tokens, gpus=1)
        with database.write() as session:
            lose(session, claim)
            session.execute(update(Job).where(Job.id == job_id).values(run_after=None, faults={}))
    (entry,) = ledger(database)
    assert (entry.trained_tokens, entry.cpu_seconds) == (700, 0)
    assert entry.gpu_seconds == pytest.approx(200, abs=40)


def test_time_after_the_lease_of_a_lost_worker_is_nobodys(database: Database) -> None:
    """The machine was off all night: nobody pays for the hours until another worker found its job."""
    job_id = a_job(database, a_project(database))
    claim = begun(database, tokens=0, seconds_ago=36_000)
    with database.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_until=db_now() - 35_000))
        lose(session, claim)
    (entry,) = ledger(database)
    assert entry.cpu_seconds == pytest.approx(1000, abs=20)
    assert the_job(database, job_id).status == JobStatus.QUEUED


def test_running_attempts_count_before_they_end(database: Database) -> None:
    project = a_project(database)
    a_job(database, project)
    claim = begun(database, tokens=9, gpus=1)
    with database.read() as session:
        tokens, seconds = job_queue.unfinished_usage(session, project)
    assert tokens == 9
    assert seconds == pytest.approx(100, abs=20)
    with database.write() as session:
        job_queue.end_attempt(session, claim, "stopped")
    with database.read() as session:
        assert job_queue.unfinished_usage(session, project) == (0, 0)


def test_a_day_keeps_its_largest_measurement_of_stored_bytes(database: Database) -> None:
    account = Account(a_project(database), "key_a", usage.NO_MODEL)
    for size in (5, 9, 9, 2):
        with database.write() as session:
            usage.record_stored(session, account, size)
    (entry,) = ledger(database)
    assert entry.stored_bytes == 9
