"""A stop of the database, or of everything: when it is over, no healthy worker is taken for lost."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import func, select, text, update

from api.records import job_queue, scans, workers
from api.records.base import db_now
from api.records.files import File
from api.records.job_queue import Claim
from api.records.jobs import Job
from api.records.workers import Worker
from api.spec.lifecycle import FailureReason, JobStatus, Stage
from tests.end_to_end.jobs import rows, wait_until
from tests.factories import a_file, a_job, a_project
from tests.worker.supervisor.clock import Clock
from tests.worker.supervisor.conftest import Workshop, attempt_at
from worker.supervisor.child import Child
from worker.supervisor.faults import LONGEST_WAIT_S, AttemptFailed
from worker.supervisor.lost_jobs import Sweeper, observe_database, requeue_expired, requeue_own
from worker.supervisor.node import Node
from worker.supervisor.scan import scan_next
from worker.supervisor.trainer_monitor import TrainerMonitor
from worker.supervisor.visibility import Visibility

LEASE_S = 60


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def node(workshop: Workshop, clock: Clock) -> Node:
    """Of a worker that has watched for long enough to judge others."""
    node = workshop.train
    node.visibility = Visibility(LEASE_S, clock)
    look_on(node, clock)
    return node


def look_on(node: Node, clock: Clock) -> None:
    """See the database regularly for a lease."""
    for _ in range(6):
        observe_database(node)
        clock.now += LEASE_S / 6
    observe_database(node)


def a_held_job(node: Node, owner: str = "another") -> Claim:
    """A job whose worker's lease has run out."""
    database = node.context.database
    job_id = a_job(database, a_project(database))
    with database.write() as session:
        claim = job_queue.claim(session, Stage.TRAIN, owner=owner, lease_s=-1, gpus=0)
    assert claim is not None
    assert claim.job_id == job_id
    return claim


def held(workshop: Workshop, claim: Claim) -> bool:
    job = workshop.job(claim.job_id)
    assert job.faults.get("worker_lost", 0) == int(job.owner is None)
    return job.owner is not None


@contextmanager
def stopped_database(workshop: Workshop) -> Iterator[None]:
    """Nothing that others begin in it ends before it goes on."""
    database = workshop.context.database
    with database.write() as session:
        if not database.is_sqlite:
            session.execute(text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))
        yield


def test_a_stop_of_the_database_in_the_middle_of_a_sweep_loses_no_job(
    workshop: Workshop, node: Node, clock: Clock
) -> None:
    healthy = a_held_job(node)
    sweep = threading.Thread(target=requeue_expired, args=(node,))
    with stopped_database(workshop):
        sweep.start()
        clock.now += LEASE_S + 1
    sweep.join()
    assert held(workshop, healthy)
    with workshop.context.database.write() as session:
        job_queue.renew(session, healthy, LEASE_S)  # as its worker does within seconds
    look_on(node, clock)
    requeue_expired(node)
    assert held(workshop, healthy)


def test_a_stop_of_everything_between_two_sweeps_loses_no_job(workshop: Workshop, node: Node, clock: Clock) -> None:
    job = a_held_job(node)
    clock.now += LEASE_S + 1
    requeue_expired(node)
    assert held(workshop, job)
    look_on(node, clock)
    requeue_expired(node)
    assert not held(workshop, job), "its worker had a lease's time to say that it lives"


def test_a_worker_that_has_just_started_judges_nobody_for_one_lease(workshop: Workshop, clock: Clock) -> None:
    node = workshop.train
    node.visibility = Visibility(LEASE_S, clock)
    job = a_held_job(node)
    requeue_expired(node)
    assert held(workshop, job)
    look_on(node, clock)
    requeue_expired(node)
    assert not held(workshop, job)


def test_what_a_worker_held_when_it_died_it_gives_back_at_its_start(workshop: Workshop, clock: Clock) -> None:
    node = workshop.train
    node.visibility = Visibility(LEASE_S, clock)
    own, others = a_held_job(node, node.owner), a_held_job(node)
    requeue_own(node)
    assert (held(workshop, own), held(workshop, others)) == (False, True)


def test_a_clock_that_is_set_makes_no_worker_silent(clock: Clock) -> None:
    watch = Visibility(LEASE_S, clock)
    for _ in range(7):
        watch.record_answer(clock.now)
        clock.now += 10
    assert watch.record_answer(clock.now)
    clock.now += 10
    assert not watch.record_answer(clock.now + 3600), "the database's clock was set, or our machine was suspended"
    for _ in range(6):
        clock.now += 10
        trusted = watch.record_answer(clock.now + 3600)
    assert trusted


def test_no_lease_of_a_lost_worker_and_no_wait_lasts_longer_because_the_clock_was_set_back(
    workshop: Workshop, node: Node, clock: Clock
) -> None:
    database, early = workshop.context.database, db_now() + 3600
    held_job, waiting = a_held_job(node).job_id, a_job(database, a_project(database))
    file_id = a_file(workshop.context, a_project(database))
    with database.write() as session:
        session.execute(update(Job).where(Job.id == held_job).values(lease_until=early))
        session.execute(update(Job).where(Job.id == waiting).values(run_after=early))
        session.execute(update(File).where(File.id == file_id).values(scan_status="pending", scan_until=early))
        workers.register(session, owner="another", stage=Stage.TRAIN)
        session.execute(update(Worker).where(Worker.owner == "another").values(seen_at=early))
    Sweeper(node, threading.Event())._sweep()
    with database.read() as session:
        times = [select(func.max(column)) for column in (Job.lease_until, Job.run_after, File.scan_until)]
        left_s = [session.scalar(select(time.scalar_subquery() - db_now())) for time in times]
        assert all(each is not None and 0 < each <= LONGEST_WAIT_S for each in left_s), left_s
        assert session.scalar(select(func.max(Worker.seen_at) <= db_now()))


def test_a_database_that_did_not_answer_is_waited_for_one_lease_more(clock: Clock) -> None:
    watch = Visibility(LEASE_S, clock)
    for _ in range(7):
        watch.record_answer(clock.now)
        clock.now += 10
    watch.record_outage()
    assert watch.stalled
    assert not watch.record_answer(clock.now)
    for _ in range(6):
        clock.now += 10
        trusted = watch.record_answer(clock.now)
    assert trusted
    assert not watch.stalled


def test_scans_that_a_stop_interrupted_are_not_held_against_their_file(workshop: Workshop) -> None:
    file_id = a_file(workshop.context, workshop.caller.project_id, rows(12))
    for stalled in (True,) * scans.MAX_SCANS + (False,):
        with workshop.context.database.write() as session:
            assert scans.claim(session, lease_s=-1, stalled=stalled) is not None
    with workshop.context.database.read() as session:
        assert not scans.exhausted(session)
        file = session.get_one(File, file_id)
    assert (file.scan_fence, file.scan_excused) == (scans.MAX_SCANS + 1, scans.MAX_SCANS - 1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_scan_that_is_killed_from_outside_is_begun_again(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    file_id = a_file(workshop.context, workshop.caller.project_id, rows(12))

    def killed(node: Node, program: str, folder: Path) -> Child:
        return Child("tests.worker.supervisor.killed", str(int(number)), log_file=folder / "log.txt")

    with monkeypatch.context() as attack:
        attack.setattr(Node, "start_child", killed)
        scan_next(workshop.prepare)
    with workshop.context.database.read() as session:
        assert session.get_one(File, file_id).scan_status == "pending"
    scan_next(workshop.prepare)
    with workshop.context.database.read() as session:
        assert session.get_one(File, file_id).scan_status == "done"


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[Child]:
    child = Child("tests.worker.supervisor.talking", log_file=tmp_path / "log.txt")
    yield child
    child.kill()


@pytest.mark.parametrize("settings", ["embedded"], indirect=True)
def test_a_supervisor_that_was_stopped_does_not_take_its_trainer_for_hung(
    workshop: Workshop, trainer: Child, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = a_held_job(workshop.train)
    attempt = attempt_at(workshop.train, claim, workshop.job(claim.job_id), tmp_path)
    monitor = TrainerMonitor(attempt, trainer)
    hours = iter(range(10**9, 10**12, 10**6))
    with monkeypatch.context() as stopped:  # for a long time, whenever it looks at its clock
        stopped.setattr("worker.supervisor.child.time", Hours(hours))
        wait_until(lambda: trainer._reports.qsize() == 1)
        assert trainer.next_report(0.01) is not None, "what it said meanwhile is read first"
        for _ in range(3):
            with pytest.raises(TimeoutError):
                trainer.next_report(0.01)
            monitor._check()
    trainer.command(cmd="speak")
    assert trainer.next_report(30) is not None
    trainer.silent_s = workshop.context.settings.hung_s + 1
    with pytest.raises(AttemptFailed) as caught:
        monitor._check()
    assert caught.value.reason is FailureReason.HUNG


class Hours:
    def __init__(self, times: Iterator[int]) -> None:
        self._times = times

    def monotonic(self) -> float:
        return float(next(self._times))


def test_a_lease_that_ran_out_in_a_stop_is_renewed_by_its_worker(workshop: Workshop, node: Node) -> None:
    claim = a_held_job(node)
    with workshop.context.database.write() as session:
        session.execute(update(Job).where(Job.id == claim.job_id).values(lease_until=db_now() - 3600))
        job_queue.renew(session, claim, LEASE_S)
        assert not job_queue.expired(session)
    assert workshop.job(claim.job_id).status == JobStatus.RUNNING
