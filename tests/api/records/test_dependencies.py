"""Jobs that wait for others: when they may be claimed, and what becomes of them when those end."""

from typing import Any

import pytest

from api.records import Database, job_queue, jobs
from api.records.dependencies import Dependency
from api.spec.lifecycle import JobStatus, Stage
from tests.api.records.test_job_queue import claim
from tests.factories import a_job, a_project, error_of, the_job


def linked(database: Database, *needs: int, status: JobStatus = JobStatus.QUEUED, stage: Stage = Stage.TRAIN):
    """Jobs s0, s1, …: `needs[n]` is which earlier one s(n + 1) needs."""
    project = a_project(database)
    ids = [
        a_job(database, project, status, pipeline_id="p", pipeline_stage=f"s{number}")
        for number in range(len(needs) + 1)
    ]
    with database.write() as session:
        session.add_all(
            Dependency(job_id=ids[number], needs_job_id=ids[need], stage=stage)
            for number, need in enumerate(needs, start=1)
        )
    return ids


def end(database: Database, job_id: str, to: JobStatus, **values: Any) -> None:
    with database.write() as session:
        jobs.transition(session, job_id, to, message="ended", **values)


def test_a_job_is_claimed_once_all_that_it_needs_has_succeeded(database: Database) -> None:
    first, second = linked(database, 0)
    taken = claim(database)
    assert taken is not None
    assert taken.job_id == first
    with database.write() as session:
        assert not job_queue.has_waiting(session, Stage.TRAIN)
        assert job_queue.ring_due(session, ring_again_s=0) == []
    assert claim(database) is None
    end(database, first, JobStatus.SUCCEEDED)
    with database.write() as session:
        assert job_queue.ring_due(session, ring_again_s=30) == [(second, Stage.TRAIN)]
    later = claim(database)
    assert later is not None
    assert later.job_id == second


@pytest.mark.parametrize("stage", Stage)
def test_rows_are_prepared_early_unless_that_waits_too(database: Database, stage: Stage) -> None:
    _, second = linked(database, 0, status=JobStatus.VALIDATING_FILES, stage=stage)
    assert claim(database, stage=Stage.PREPARE) is not None
    early = claim(database, stage=Stage.PREPARE)
    assert (early.job_id if early else None) == (second if stage is Stage.TRAIN else None)


@pytest.mark.parametrize("waiting", [JobStatus.VALIDATING_FILES, JobStatus.QUEUED, JobStatus.PAUSED])
def test_whoever_needs_a_failed_job_fails_with_it_and_with_its_reason(database: Database, waiting: JobStatus) -> None:
    first, second, third, apart = linked(database, 0, 1, 0)
    end(database, apart, JobStatus.CANCELLED)
    for job_id in (second, third):
        with database.write() as session:
            session.get_one(jobs.Job, job_id).status = waiting
    error = {"code": "diverged", "message": "The loss diverged.", "param": None}
    end(database, first, JobStatus.FAILED, error=error)
    for job_id in (second, third):
        job = the_job(database, job_id)
        assert (job.status, error_of(job)["code"]) == (JobStatus.FAILED, "dependency_failed")
        assert error_of(job)["message"] == "The stage 's0', which this one needs, failed: The loss diverged."
    assert the_job(database, apart).status == JobStatus.CANCELLED


def test_a_cancelled_job_takes_along_who_needs_it_but_not_what_it_needed(database: Database) -> None:
    first, second, third = linked(database, 0, 1)
    end(database, second, JobStatus.CANCELLED)
    assert [the_job(database, job_id).status for job_id in (first, second, third)] == ["queued", "cancelled", "failed"]
    assert "was cancelled" in error_of(the_job(database, third))["message"]
