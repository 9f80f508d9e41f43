"""The queue's promises, on both databases."""

import threading
from collections import Counter

import pytest
from sqlalchemy import update

from api.records import Database, job_queue, jobs
from api.records.base import db_now
from api.records.job_queue import Claim
from api.records.jobs import Job, StaleFence
from api.spec.lifecycle import JobStatus, Stage
from tests.factories import a_job, a_project, the_job
from tests.query_plans import query_plans


def claim(database: Database, owner: str = "w1", stage: Stage = Stage.TRAIN, gpus: int = 0) -> Claim | None:
    with database.write() as session:
        return job_queue.claim(session, stage, owner=owner, lease_s=60, gpus=gpus)


def claimed(database: Database, owner: str = "w1") -> Claim:
    taken = claim(database, owner)
    assert taken is not None
    return taken


def let_lease_expire(database: Database, job_id: str) -> None:
    with database.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_until=db_now() - 1))


def test_a_claim_starts_the_job_and_raises_its_fence(database: Database) -> None:
    job_id = a_job(database, a_project(database))
    taken = claimed(database)
    job = the_job(database, job_id)
    assert (job.status, job.fence, job.owner) == (JobStatus.RUNNING, taken.fence, "w1")
    assert job.started_at is not None
    assert claim(database, "w2") is None


def test_many_workers_at_once_claim_each_job_once(database: Database) -> None:
    project = a_project(database)
    made = {a_job(database, project) for _ in range(12)}
    taken: list[str] = []

    def work(owner: str) -> None:
        while (mine := claim(database, owner)) is not None:
            taken.append(mine.job_id)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(taken) == Counter(made)


def test_equal_jobs_of_three_projects_start_in_turn_whoever_flooded(database: Database) -> None:
    projects = {a_project(database, name): count for name, count in {"a": 12, "b": 4, "c": 4}.items()}
    for project, count in projects.items():
        for _ in range(count):
            a_job(database, project)
    starts: Counter[str] = Counter(dict.fromkeys(projects, 0))
    for _ in range(12):
        starts[claimed(database).project_id] += 1
        assert max(starts.values()) - min(starts.values()) <= 1
    assert [claimed(database).project_id for _ in range(8)] == [next(iter(projects))] * 8


def test_concurrent_claims_are_as_fair_as_one_after_the_other(database: Database) -> None:
    projects = [a_project(database, name) for name in "abc"]
    for project in projects:
        for _ in range(4):
            a_job(database, project)
    taken: list[str] = []
    barrier = threading.Barrier(3)

    def work(owner: str) -> None:
        for _ in range(2):
            barrier.wait()
            taken.append(claimed(database, owner).project_id)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(taken) == dict.fromkeys(projects, 2)


def test_a_project_that_used_more_waits(database: Database) -> None:
    hungry, fed = a_project(database, "hungry"), a_project(database, "fed")
    a_job(database, fed, JobStatus.SUCCEEDED, started_at=db_now(), work=100.0)
    a_job(database, fed)
    later = a_job(database, hungry)
    assert claimed(database).job_id == later


def test_within_a_project_priority_decides_then_age(database: Database) -> None:
    project = a_project(database)
    first, second = a_job(database, project), a_job(database, project)
    urgent = a_job(database, project, priority=5)
    assert [claimed(database).job_id for _ in range(3)] == [urgent, first, second]


def test_a_job_that_needs_a_gpu_is_left_to_a_slot_that_has_one(database: Database) -> None:
    job_id = a_job(database, a_project(database), gpus=1)
    assert claim(database, gpus=0) is None
    with_gpu = claim(database, gpus=1)
    assert with_gpu is not None
    assert with_gpu.job_id == job_id


def test_a_job_is_not_claimed_before_its_back_off_is_over(database: Database) -> None:
    a_job(database, a_project(database), run_after=db_now() + 60)
    assert claim(database) is None


def test_prepare_leases_without_changing_the_status(database: Database) -> None:
    job_id = a_job(database, a_project(database), JobStatus.VALIDATING_FILES)
    assert claim(database, stage=Stage.PREPARE) is not None
    assert the_job(database, job_id).status == JobStatus.VALIDATING_FILES
    assert claim(database, stage=Stage.PREPARE) is None
    let_lease_expire(database, job_id)
    assert claim(database, "w2", stage=Stage.PREPARE) is None, "the sweep has to count it first"
    with database.write() as session:
        assert [job.id for job in job_queue.expired(session)] == [job_id]


def test_a_stale_fence_writes_nothing(database: Database) -> None:
    job_id = a_job(database, a_project(database))
    mine = claimed(database)
    with database.write() as session:
        jobs.transition(session, job_id, JobStatus.CANCELLED, message="cancelled")
    for act in (
        lambda session: jobs.update_fenced(session, job_id, mine.fence, trained_tokens=7),
        lambda session: job_queue.renew(session, mine, 60),
        lambda session: jobs.transition(session, job_id, JobStatus.SUCCEEDED, message="done", fence=mine.fence),
    ):
        with pytest.raises(StaleFence), database.write() as session:
            act(session)
    job = the_job(database, job_id)
    assert (job.status, job.trained_tokens) == (JobStatus.CANCELLED, None)


def test_a_final_status_never_changes(database: Database) -> None:
    job_id = a_job(database, a_project(database), JobStatus.SUCCEEDED)
    for status in JobStatus:
        with pytest.raises(StaleFence), database.write() as session:
            jobs.transition(session, job_id, status, message="no")


def test_only_expired_leases_are_found(database: Database) -> None:
    project = a_project(database)
    silent, alive = a_job(database, project), a_job(database, project)
    claimed(database), claimed(database)
    let_lease_expire(database, silent)
    with database.write() as session:
        assert [job.id for job in job_queue.expired(session)] == [silent]
    assert the_job(database, alive).owner is not None


def test_waiting_jobs_are_rung_for_again_only_after_a_while(database: Database) -> None:
    project = a_project(database)
    job_id = a_job(database, project)
    running = a_job(database, project, JobStatus.RUNNING, lease_until=db_now() + 60)
    with database.write() as session:
        assert job_queue.ring_due(session, ring_again_s=30) == [(job_id, Stage.TRAIN)]
    with database.write() as session:
        assert job_queue.ring_due(session, ring_again_s=30) == []
    assert the_job(database, running).rung_at is None


def test_the_clock_is_the_databases_and_in_unix_seconds(database: Database) -> None:
    with database.read() as session:
        first, second = session.scalar(db_now().select()), session.scalar(db_now().select())
    assert first is not None
    assert second is not None
    assert 1.7e9 < first <= second < first + 60
    assert first != int(first), "fractions are kept"


def test_a_project_whose_jobs_are_refused_delays_its_own_only(database: Database) -> None:
    bad, good = a_project(database, "bad"), a_project(database, "good")
    first, *_ = [a_job(database, bad, JobStatus.VALIDATING_FILES) for _ in range(3)]
    other = a_job(database, good, JobStatus.VALIDATING_FILES)
    taken = claim(database, stage=Stage.PREPARE)
    assert taken is not None
    assert taken.job_id == first
    with database.write() as session:
        jobs.transition(session, first, JobStatus.FAILED, message="invalid rows", fence=taken.fence)
    following = claim(database, stage=Stage.PREPARE)
    assert following is not None
    assert following.job_id == other


@pytest.mark.parametrize("before", [JobStatus.QUEUED, JobStatus.SUCCEEDED])
def test_a_project_that_comes_new_does_not_go_before_all_that_worked_today(
    database: Database, before: JobStatus
) -> None:
    """However many jobs the other has behind it, a flood costs it the one preparation that is under way."""
    busy, new = a_project(database, "busy"), a_project(database, "new")
    for _ in range(4):
        prepare_one(database, a_job(database, busy, JobStatus.VALIDATING_FILES), before)
    for _ in range(4):
        a_job(database, new, JobStatus.VALIDATING_FILES)
    taken = claim(database, stage=Stage.PREPARE)
    assert taken is not None
    assert taken.project_id == new
    other = a_job(database, busy, JobStatus.VALIDATING_FILES)
    end_preparing(database, taken, before)
    following = claim(database, stage=Stage.PREPARE)
    assert following is not None
    assert following.job_id == other


def test_a_second_slot_goes_to_the_project_that_has_none(database: Database) -> None:
    long, short = a_project(database, "long"), a_project(database, "short")
    for project in (long, long, short):
        a_job(database, project, JobStatus.VALIDATING_FILES)
    first, second = (claim(database, stage=Stage.PREPARE) for _ in range(2))
    assert first is not None
    assert second is not None
    assert [first.project_id, second.project_id] == [long, short]
    end_preparing(database, second, JobStatus.QUEUED)
    later = a_job(database, short, JobStatus.VALIDATING_FILES)
    third = claim(database, stage=Stage.PREPARE)
    assert third is not None
    assert third.job_id == later, "the other's turn is longer ago, but it has a slot"


def prepare_one(database: Database, job_id: str, then: JobStatus) -> None:
    taken = claim(database, stage=Stage.PREPARE)
    assert taken is not None
    assert taken.job_id == job_id
    end_preparing(database, taken, then)


def end_preparing(database: Database, taken: Claim, then: JobStatus) -> None:
    with database.write() as session:
        values = {"status": then, "owner": None, "lease_until": None, "finished_at": db_now()}
        session.execute(update(Job).where(Job.id == taken.job_id).values(**values))


def test_what_workers_look_for_every_few_seconds_is_found_by_indexes(database: Database) -> None:
    """An installation keeps every job that it ever ran, and every attempt at it."""
    with database.write() as session, query_plans(database) as plans:
        jobs.ended_with_state(session)
        jobs.usage(session, 60.0)
        job_queue.end_orphaned_attempts(session)
    text = "\n".join(plans)
    assert not database.is_sqlite or all(
        f"INDEX {name}" in text for name in ("ix_jobs_with_state", "ix_jobs_started_at", "ix_attempts_open")
    ), text


def test_ended_jobs_are_not_read_to_find_unfinished_ones(database: Database) -> None:
    project = a_project(database)
    with database.read() as session, query_plans(database) as plans:
        jobs.active_count(session, project)
        jobs.arrays_in_use(session)
    expected = [
        "INDEX ix_jobs_project_id_status_created_at (project_id=? AND status=?)",
        "INDEX ix_jobs_status (status=?)",
    ]
    assert [plan.partition(" USING ")[2].removeprefix("COVERING ") for plan in plans] == expected * database.is_sqlite
