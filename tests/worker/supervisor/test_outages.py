"""Faults of the infrastructure: the queue holds, and no job is charged for them."""

import errno
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from api.context import Context
from api.infra.storage import Storage, StorageFull, StorageUnavailable, StoredObject
from api.records import faults, job_queue, jobs, scans
from api.records.files import File
from api.records.job_queue import Attempt
from api.records.jobs import Job
from api.records.workers import Worker
from api.services import storage_marker
from api.spec.lifecycle import FailureReason, JobStatus
from tests.end_to_end.jobs import rows
from tests.factories import a_file
from tests.worker.supervisor.clock import Clock
from tests.worker.supervisor.conftest import OpenWorkshop, Workshop
from worker.engine.errors import as_training_error
from worker.supervisor import loop
from worker.supervisor.faults import AttemptFailed, Interrupted, retry_or_fail
from worker.supervisor.lost_jobs import Sweeper
from worker.supervisor.pause import PAUSES_S, SUSPICIOUS_JOBS, Pause
from worker.supervisor.work_folder import fills_disk


class Away(Storage):
    """The real storage, which raises `error` on everything while that is set."""

    error: StorageUnavailable | None = None

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    def write_file(self, key: str, path: Path) -> StoredObject:
        self._check()
        return super().write_file(key, path)

    def write_bytes(self, key: str, data: bytes) -> StoredObject:
        self._check()
        return super().write_bytes(key, data)

    def read(self, key: str) -> Any:
        self._check()
        return super().read(key)

    def changed_at(self, key: str) -> float | None:
        self._check()
        return super().changed_at(key)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def storage(context: Context) -> Away:
    storage = Away(context.settings.storage)
    object.__setattr__(context, "storage", storage)
    return storage


@pytest.fixture
def shop(open_workshop: OpenWorkshop, context: Context, storage: Away, clock: Clock) -> Workshop:
    shop = open_workshop(context)
    for node in (shop.prepare, shop.train):
        node.pause = Pause(node.find_problem, clock)
    return shop


def attempts(shop: Workshop) -> int:
    with shop.context.database.read() as session:
        return session.scalar(select(func.count()).select_from(Attempt)) or 0


def counts(job: Job) -> dict[str, int]:
    """What the job was charged, and excused."""
    return {name: count for name, count in job.faults.items() if name in (*FailureReason, faults.EXCUSED)}


def let_waits_pass(shop: Workshop) -> None:
    with shop.context.database.write() as session:
        session.execute(update(Job).values(run_after=None))


EMBEDDED = pytest.mark.parametrize("settings", ["embedded"], indirect=True)
AWAY = [("embedded", StorageFull("no room")), ("production", StorageUnavailable("503"))]


@pytest.mark.parametrize(("settings", "error"), AWAY, indirect=["settings"])
def test_an_outage_of_the_storage_leaves_the_queue_as_it_was(
    shop: Workshop, storage: Away, clock: Clock, error: StorageUnavailable
) -> None:
    ids = [shop.submit(rows(12)) for _ in range(4)]
    with shop.context.database.write() as session:
        session.execute(update(File).values(scan_status="done"))  # test_scanning has the scans
    storage.error = error
    for _ in range(20):  # five minutes and more
        shop.work()
        let_waits_pass(shop)
        clock.now += 30
    assert attempts(shop) == 1, "the first job met the fault, the others were not touched"
    assert {shop.job(job_id).status for job_id in ids} == {JobStatus.VALIDATING_FILES}
    assert [shop.job(job_id).faults.get("excused", 0) for job_id in sorted(ids)].count(1) == 1
    told = [message for job_id in ids for message in shop.told(job_id) if "could not be reached" in message]
    assert len(told) == 1
    assert "none of its retries" in told[0]
    storage.error = None
    clock.now += PAUSES_S[-1]
    let_waits_pass(shop)
    while loop.work_once(shop.prepare, shop.prepare.slots.first):
        pass
    assert {shop.job(job_id).status for job_id in ids} == {JobStatus.QUEUED}
    assert not any(reason in shop.job(job_id).faults for job_id in ids for reason in FailureReason)


def test_an_outage_of_the_storage_never_gives_up_a_scan(shop: Workshop, storage: Away, clock: Clock) -> None:
    file_id = a_file(shop.context, shop.caller.project_id, rows(12))
    storage.error = StorageUnavailable("503")
    for _ in range(scans.MAX_SCANS + 2):
        shop.prepare.pause = Pause(shop.prepare.find_problem, clock)  # as if other workers met it, one after the other
        shop.work()
    with shop.context.database.read() as session:
        file = session.get_one(File, file_id)
    assert (file.scan_status, file.scan_fence) == ("pending", scans.MAX_SCANS + 2)
    storage.error = None
    clock.now += PAUSES_S[-1]
    shop.work()
    with shop.context.database.read() as session:
        assert session.get_one(File, file_id).scan_status == "done"


@EMBEDDED
def test_a_storage_that_comes_back_empty_costs_nobody_anything(shop: Workshop, clock: Clock) -> None:
    """As where a bucket's server starts without its disk. A bucket has no inode that shows it."""
    objects = Path(shop.context.settings.storage)
    storage_marker.prepare(shop.context)
    job_id, kept = shop.submit(), objects.with_name("kept")
    shutil.copytree(objects, kept)
    for prefix in ("files", "base"):
        shop.context.storage.delete_prefix(prefix)
    shop.context.storage.delete(["installation"])
    for _ in range(scans.MAX_SCANS + 2):
        shop.work()
        let_waits_pass(shop)
        clock.now += PAUSES_S[-1]
    assert (shop.job(job_id).status, shop.job(job_id).error) == (JobStatus.VALIDATING_FILES, None)
    assert "has lost its objects, or is another one" in (shop.prepare.find_problem() or "")
    shutil.copytree(kept, objects, dirs_exist_ok=True)
    clock.now += PAUSES_S[-1]
    shop.work()
    assert shop.job(job_id).status == JobStatus.SUCCEEDED, shop.job(job_id).error
    with shop.context.database.read() as session:
        file = session.get_one(File, shop.job(job_id).training_file)
    assert file.scan_status == "done"


FULL = {
    "the supervisor's own": OSError(errno.ENOSPC, "No space left on device"),
    "a quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
    "a child's": AttemptFailed(FailureReason.DISK_FULL),
}


@EMBEDDED
@pytest.mark.parametrize("error", FULL.values(), ids=FULL.keys())
def test_a_disk_that_others_filled_costs_no_retry(
    shop: Workshop, clock: Clock, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    job_id = shop.submit()

    def full(*_: Any) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(loop, "prepare", full)
        for _ in range(8):
            shop.work()
            let_waits_pass(shop)
            clock.now += PAUSES_S[-1]
    job = shop.job(job_id)
    assert (job.status, counts(job)) == (JobStatus.VALIDATING_FILES, {"excused": 8})
    assert "disk was full" in " ".join(shop.told(job_id))
    while loop.work_once(shop.prepare, shop.prepare.slots.first):
        pass
    assert shop.job(job_id).status == JobStatus.QUEUED


@EMBEDDED
def test_a_disk_without_room_for_a_run_folder_costs_no_retry(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where another program has used the last inode: the number of free bytes shows nothing."""
    job_id, mkdir = shop.submit(), Path.mkdir

    def full(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name.startswith(job_id):
            raise OSError(errno.ENOSPC, "No space left on device")
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", full)
    shop.work()
    assert (shop.job(job_id).status, counts(shop.job(job_id))) == (JobStatus.VALIDATING_FILES, {"excused": 1})
    assert not shop.prepare.pause.may_work(), "the next job would meet the same"


@EMBEDDED
def test_a_worker_that_can_start_no_process_charges_no_job(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = shop.submit()
    monkeypatch.setattr("worker.supervisor.node.Child", _raise(BlockingIOError(errno.EAGAIN, "fork")))
    shop.work()
    assert (shop.job(job_id).status, counts(shop.job(job_id))) == (JobStatus.VALIDATING_FILES, {"excused": 1})
    assert not shop.prepare.pause.may_work()


def test_a_disk_that_the_job_itself_fills_is_charged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "state").write_bytes(bytes(10_000))
    (tmp_path / "out" / "same").hardlink_to(tmp_path / "out" / "state")

    class Disk:
        total = 15_000

    monkeypatch.setattr("worker.supervisor.work_folder.shutil.disk_usage", lambda _: Disk)
    assert fills_disk(tmp_path)
    Disk.total = 25_000
    assert not fills_disk(tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("SafetensorError: Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter: No space left on device"),
    ],
)
def test_a_trainer_tells_a_full_disk_from_other_errors(error: Exception) -> None:
    assert as_training_error(error).reason is FailureReason.DISK_FULL


@EMBEDDED
def test_counts_begin_anew_once_a_newer_state_is_stored(shop: Workshop) -> None:
    job_id = shop.submit()
    counted = []
    for step in (None, None, 5, 5, 9):
        state = None if step is None else {"step": step, "prefix": f"states/{step}"}
        with shop.context.database.write() as session:
            session.execute(update(Job).where(Job.id == job_id).values(status=JobStatus.RUNNING, state=state))
        with shop.context.database.write() as session:
            job = jobs.lock(session, job_id)
            assert job is not None
            retry_or_fail(session, job, AttemptFailed(FailureReason.WORKER_LOST))
        counted.append(shop.job(job_id).faults["worker_lost"])
    assert counted == [1, 2, 1, 2, 1]


@EMBEDDED
def test_what_prepare_was_charged_does_not_count_in_training(shop: Workshop) -> None:
    job_id = shop.submit()
    with shop.context.database.write() as session:
        faults.count(session, job_id, FailureReason.WORKER_LOST)
    with shop.context.database.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(status=JobStatus.RUNNING))
    with shop.context.database.write() as session:
        assert faults.count(session, job_id, FailureReason.WORKER_LOST) == 1


def test_an_end_that_the_database_cannot_take_is_written_when_it_is_back(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the lease would run out, and the job be charged for a lost worker."""
    job_id = shop.submit()
    away = 3

    def settle_later(session: Session, *arguments: Any) -> bool:
        nonlocal away
        away -= 1
        if away >= 0:
            _write_to_what_can_only_be_read(session)
        return retry_or_fail(session, *arguments)

    monkeypatch.setattr(loop, "prepare", _raise(StorageUnavailable("503")))
    monkeypatch.setattr(loop, "retry_or_fail", settle_later)
    monkeypatch.setattr("worker.supervisor.write_retry.RETRY_S", 0)
    shop.work()
    assert away == -1
    assert (shop.job(job_id).owner, counts(shop.job(job_id))) == (None, {"excused": 1})


def _write_to_what_can_only_be_read(session: Session) -> None:
    """As to a standby that took over, or a disk that its kernel protects from writes."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SET TRANSACTION READ ONLY"))
        session.execute(update(Job).values(seed=1))
    session.execute(text("PRAGMA query_only = ON"))
    try:
        session.execute(update(Job).values(seed=1))
    finally:
        session.execute(text("PRAGMA query_only = OFF"))


def _raise(error: Exception) -> Callable[..., None]:
    def act(*_: Any, **__: Any) -> None:
        raise error

    return act


@EMBEDDED
def test_the_lease_is_renewed_until_the_end_is_recorded(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of a slow storage may take longer than the lease."""
    job_id, beating = shop.submit(), list[bool]()

    def check(thorough: bool = True) -> None:
        beating.append(f"heartbeat-{job_id}" in {thread.name for thread in threading.enumerate()})

    monkeypatch.setattr(loop, "prepare", _raise(AttemptFailed(FailureReason.INTERNAL)))
    monkeypatch.setattr(shop.prepare, "find_problem", check)
    loop.work_once(shop.prepare, shop.prepare.slots.first)
    assert (beating, counts(shop.job(job_id))) == ([True], {"internal": 1})


@EMBEDDED
def test_a_requeue_locks_the_job_before_its_attempt(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a cancel does: in opposite orders, each would wait for the other."""
    shop.submit()
    order: list[str] = []
    for module, name in ((jobs, "lock_for_attempt"), (job_queue, "end_attempt")):
        monkeypatch.setattr(module, name, _recorded(order, getattr(module, name)))
    monkeypatch.setattr(loop, "prepare", _raise(Interrupted()))
    loop.work_once(shop.prepare, shop.prepare.slots.first)
    assert order == ["lock_for_attempt", "end_attempt"]


def _recorded(order: list[str], act: Callable[..., Any]) -> Callable[..., Any]:
    def recorded(*arguments: Any, **options: Any) -> Any:
        order.append(act.__name__)
        return act(*arguments, **options)

    return recorded


def test_jobs_that_fail_one_after_the_other_make_the_worker_pause(clock: Clock) -> None:
    hold = Pause(lambda thorough: None, clock)
    for number in range(SUSPICIOUS_JOBS - 1):
        hold.suspect(f"job-{number}")
        hold.suspect(f"job-{number}")
    assert hold.may_work()
    hold.record_success()
    for number in range(SUSPICIOUS_JOBS):
        assert hold.may_work()
        hold.suspect(f"job-{number}")
    assert not hold.may_work()
    clock.now += PAUSES_S[0]
    assert hold.may_work(), "one more job is tried"
    hold.suspect("another")
    clock.now += PAUSES_S[0]
    assert not hold.may_work(), "the pauses grow"
    clock.now += PAUSES_S[1]
    assert hold.may_work()


def test_a_hold_ends_when_what_failed_works_again(clock: Clock) -> None:
    broken: list[str] = ["The disk is full"]
    hold = Pause(lambda thorough: broken[0] if broken else None, clock)
    assert not hold.may_work()
    assert hold.reason == "The disk is full"
    broken.clear()
    assert not hold.may_work(), "not before its pause is over"
    clock.now += PAUSES_S[0]
    assert hold.may_work()
    assert hold.reason is None


@EMBEDDED
def test_a_trainer_that_dies_before_it_looks_at_the_job_is_the_workers_fault(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As where its Python is broken, or a library of the GPU's."""
    job_id = shop.submit()
    while loop.work_once(shop.prepare, shop.prepare.slots.first):
        pass
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so: cannot open shared object file')")
    with monkeypatch.context() as broken:
        broken.setenv("PYTHONPATH", str(tmp_path), prepend=":")
        broken.setattr(shop.train, "fork_server", None)  # which has imported the true torch
        shop.train_once()
    job = shop.job(job_id)
    assert (job.status, counts(job)) == (JobStatus.QUEUED, {"excused": 1})
    assert shop.train.pause.reason is not None


@EMBEDDED
def test_a_worker_on_hold_is_known_to_the_others(shop: Workshop) -> None:
    shop.train.pause.begin("The worker's disk is full")
    Sweeper(shop.train, threading.Event())._sweep()
    with shop.context.database.read() as session:
        assert session.get_one(Worker, shop.train.owner).held == "The worker's disk is full"


@EMBEDDED
def test_a_shutdown_ends_a_fetch_at_once_and_costs_the_job_nothing(shop: Workshop) -> None:
    job_id = shop.submit()
    loop.work_until_idle(shop.prepare)
    with shop.train.slots.take() as slot:
        assert slot is not None
        claim = loop.claim_next(shop.train, slot)
        assert claim is not None
        shop.train.stopping.set()
        loop.run_attempt(shop.train, claim, slot)
    job = shop.job(job_id)
    assert (job.status, counts(job)) == (JobStatus.QUEUED, {})
    assert shop.told(job_id)[-1] == loop.INTERRUPTED, "no trainer was started"
    assert not [folder for folder in (shop.train.cache / "base").glob("*") if folder.is_dir()]
