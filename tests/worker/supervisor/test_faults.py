"""What goes wrong, and what the job becomes by it."""

import shutil
import signal
import threading
import time
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import update

from api.context import Context
from api.infra.storage import Storage, StorageUnavailable, StoredObject
from api.records import events, job_queue, jobs, models
from api.records.base import db_now
from api.records.jobs import Job
from api.services import base_models
from api.services import jobs as job_service
from api.spec.artifacts import SavedState
from api.spec.lifecycle import FAILURES, FailureReason, JobStatus, Stage
from tests.end_to_end.jobs import wait_until
from tests.factories import error_of
from tests.worker.supervisor.conftest import OpenWorkshop, Workshop, attempt_at
from worker.engine.saving.atomic_folder import atomic_folder
from worker.shared.reports import MetricsReport
from worker.supervisor import prepare_child
from worker.supervisor.child import Child
from worker.supervisor.faults import BACKOFF_S, AttemptFailed, Interrupted, retry_or_fail
from worker.supervisor.inputs import fetch_state
from worker.supervisor.lease import Heartbeat
from worker.supervisor.loop import claim_next, work_until_idle
from worker.supervisor.lost_jobs import requeue_expired
from worker.supervisor.outputs import store_folder, store_state
from worker.supervisor.prepare_child import wait_for_child
from worker.supervisor.progress import Progress
from worker.supervisor.slots import Slot
from worker.supervisor.train import _fetch_state
from worker.supervisor.visibility import Visibility


@pytest.fixture
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """One way to run is enough here: what differs between the two is tested in test_life_of_a_job."""
    from api.settings import Settings  # noqa: PLC0415

    return Settings(
        data_dir=tmp_path / "data",
        database_url=request.getfixturevalue("sqlite_url"),
        broker_url=request.getfixturevalue("valkey_url"),
        poll_s=0.2,
        heartbeat_s=0.05,  # a fast machine trains for half a second
    )


def published(workshop: Workshop, job_id: str) -> bool:
    job = workshop.job(job_id)
    with workshop.context.database.read() as session:
        return models.get(session, job.project_id, job.model_id) is not None


def in_background(workshop: Workshop) -> threading.Thread:
    thread = threading.Thread(target=workshop.work)
    thread.start()
    return thread


def step_of(workshop: Workshop, job_id: str) -> int:
    return int(workshop.job(job_id).progress.get("step", 0))


def test_a_learning_rate_of_a_billion_diverges_and_publishes_nothing(workshop: Workshop) -> None:
    job_id = workshop.submit(steps=10, training={"learning_rate": 1e9})
    workshop.work()
    job = workshop.job(job_id)
    assert (job.status, job.fine_tuned_model, job.result_files) == (JobStatus.FAILED, None, [])
    assert job.error is not None
    assert job.error["code"] == "diverged"
    assert not published(workshop, job_id)


def test_a_step_that_crashes_the_trainer_three_times_is_poison(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTUNE_FAIL_AT", "step:3:crash")
    job_id = workshop.submit(training={"save_every": 1})
    for _ in range(3):
        let_wait_pass(workshop, job_id)
        workshop.train_once()
    job = workshop.job(job_id)
    assert job.status == JobStatus.FAILED
    assert job.error is not None
    assert job.error["code"] == "poison"


def test_deaths_at_different_steps_are_not_poison(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = workshop.submit(training={"save_every": 100})
    for step in (4, 3, 2):
        monkeypatch.setenv("ATTUNE_FAIL_AT", f"step:{step}:crash")
        let_wait_pass(workshop, job_id)
        workshop.train_once()
    job = workshop.job(job_id)
    assert (job.status, job.progress["step"], job.faults["died_at_step"]) == (JobStatus.QUEUED, 3, 1)
    assert any(event.startswith("The trainer was killed (signal 6).") for event in workshop.told(job_id))


def test_kills_from_outside_at_the_same_step_are_not_the_datas_fault(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTUNE_FAIL_AT", "step:3:kill")
    job_id = workshop.submit(training={"save_every": 1})
    for _ in range(3):
        let_wait_pass(workshop, job_id)
        workshop.train_once()
    job = workshop.job(job_id)
    assert (job.status, job.faults["worker_lost"]) == (JobStatus.QUEUED, 3)
    assert "deaths" not in job.faults
    assert any(event.startswith("The trainer was killed (signal 9), possibly") for event in workshop.told(job_id))


def test_prepare_killed_from_outside_is_a_lost_worker(workshop: Workshop, tmp_path: Path) -> None:
    job_id = workshop.submit()
    claim = claim_next(workshop.prepare, Slot())
    assert claim is not None
    child = Child("tests.worker.supervisor.killed", log_file=tmp_path / "log.txt")
    with Heartbeat(workshop.context, claim) as beat, pytest.raises(AttemptFailed) as caught:
        wait_for_child(attempt_at(workshop.prepare, claim, workshop.job(job_id), tmp_path, beat), child)
    assert (caught.value.reason, caught.value.died_at) == (FailureReason.WORKER_LOST, None)
    child.kill()
    child.command(cmd="stop")  # raises nothing though its stdin is closed


def test_prepare_ended_by_the_signal_that_stops_its_worker_is_interrupted(workshop: Workshop, tmp_path: Path) -> None:
    job_id = workshop.submit()
    claim = claim_next(workshop.prepare, Slot())
    assert claim is not None
    child = Mock(silent_s=0.0)
    child.next_report.side_effect = lambda _: workshop.prepare.stopping.set()
    child.wait.return_value = -signal.SIGTERM
    with pytest.raises(Interrupted):
        wait_for_child(attempt_at(workshop.prepare, claim, workshop.job(job_id), tmp_path), child)


def test_prepare_killed_for_lack_of_memory_says_so(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare_child, "out_of_memory_kills", count().__next__)
    job_id = workshop.submit()
    claim = claim_next(workshop.prepare, Slot())
    assert claim is not None
    child = Child("tests.worker.supervisor.killed", log_file=tmp_path / "log.txt")
    with pytest.raises(AttemptFailed, match="smaller ones") as caught:
        wait_for_child(attempt_at(workshop.prepare, claim, workshop.job(job_id), tmp_path), child)
    assert caught.value.reason is FailureReason.OUT_OF_MEMORY


def test_cancelled_job_has_no_attempt_that_goes_on(workshop: Workshop) -> None:
    job_id = workshop.submit()
    work_until_idle(workshop.prepare)
    with workshop.train.slots.take() as slot:
        assert slot is not None
        claim = claim_next(workshop.train, slot)
    job_service.cancel(workshop.context, workshop.caller, job_id)
    with workshop.context.database.read() as session:
        attempts = job_queue.attempts_of(session, job_id)
    assert claim is not None
    assert [(each.ended_at is not None, each.outcome) for each in attempts] == [(True, "prepared"), (True, "cancelled")]


def test_event_names_the_state_that_is_resumed(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTUNE_FAIL_AT", "step:9:kill")
    job_id = workshop.submit(steps=9, training={"save_every": 2})
    workshop.train_once()
    monkeypatch.delenv("ATTUNE_FAIL_AT")
    state = workshop.job(job_id).state
    assert state is not None
    assert state["before"] is not None
    newest, before = state["step"], state["before"]["step"]
    workshop.context.storage.write_bytes(f"{state['prefix']}/weights.safetensors", b"damaged")
    let_wait_pass(workshop, job_id)
    workshop.train_once()
    assert workshop.job(job_id).status == JobStatus.SUCCEEDED
    told = workshop.told(job_id)
    assert f"The state saved at step {newest} is damaged: fine-tuning job resumes from step {before}" in told
    assert f"Fine-tuning job resumes from step {newest}" not in told


def let_wait_pass(workshop: Workshop, job_id: str) -> None:
    with workshop.context.database.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(run_after=None))


def test_a_trainer_that_says_nothing_is_ended_and_its_job_tried_again(
    open_workshop: OpenWorkshop, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = context.settings.model_copy(update={"hung_s": 15})
    workshop = open_workshop(Context.open(patient))
    monkeypatch.setenv("ATTUNE_FAIL_AT", "step:2:hang")
    job_id = workshop.submit()
    workshop.train_once()
    job = workshop.job(job_id)
    assert (job.status, job.faults["hung"]) == (JobStatus.QUEUED, 1)


def test_a_trainer_that_cannot_get_memory_halves_its_batch_and_goes_on(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTUNE_FAIL_AT", "step:2:oom")
    job_id = workshop.submit()
    workshop.work()
    assert workshop.job(job_id).status == JobStatus.SUCCEEDED


def test_a_cancelled_job_is_left_at_once_and_publishes_nothing(workshop: Workshop) -> None:
    job_id = workshop.submit(steps=5000, training={"save_every": 5000})
    thread = in_background(workshop)
    wait_until(lambda: step_of(workshop, job_id) > 0)
    job_service.cancel(workshop.context, workshop.caller, job_id)
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert workshop.job(job_id).status == JobStatus.CANCELLED
    assert not published(workshop, job_id)
    assert [path for path in workshop.train.folder.iterdir() if path.is_dir()] == [], "the run folder is gone"


def test_a_paused_job_goes_on_where_it_was(workshop: Workshop) -> None:
    job_id = workshop.submit(steps=400, training={"save_every": 400})
    thread = in_background(workshop)
    wait_until(lambda: step_of(workshop, job_id) > 0)
    job_service.pause(workshop.context, workshop.caller, job_id)
    thread.join(timeout=60)
    paused = workshop.job(job_id)
    assert paused.status == JobStatus.PAUSED
    assert paused.state is not None
    assert 0 < paused.state["step"] < 400
    job_service.resume(workshop.context, workshop.caller, job_id)
    workshop.work()
    assert workshop.job(job_id).status == JobStatus.SUCCEEDED
    assert f"Fine-tuning job resumes from step {paused.state['step']}" in workshop.told(job_id)


def test_a_worker_that_lost_its_job_publishes_nothing(workshop: Workshop) -> None:
    job_id = workshop.submit(steps=300)
    thread = in_background(workshop)
    wait_until(lambda: step_of(workshop, job_id) > 0)
    with workshop.context.database.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(fence=Job.fence + 1, owner="another"))
    thread.join(timeout=60)
    job = workshop.job(job_id)
    assert (job.status, job.owner) == (JobStatus.RUNNING, "another")
    assert not published(workshop, job_id)


class ShakyStorage(Storage):
    """A real storage that is away for a while, from when it is told to be."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.away_until = 0.0

    def write_file(self, key: str, path: Path) -> StoredObject:
        if time.monotonic() < self.away_until:
            raise StorageUnavailable(key)
        return super().write_file(key, path)


def test_a_finished_model_waits_for_a_storage_that_is_away(open_workshop: OpenWorkshop, context: Context) -> None:
    storage = ShakyStorage(context.settings.storage)
    object.__setattr__(context, "storage", storage)
    workshop = open_workshop(context)
    job_id = workshop.submit(steps=200)
    thread = in_background(workshop)
    wait_until(lambda: step_of(workshop, job_id) > 0)
    storage.away_until = time.monotonic() + 8
    thread.join(timeout=120)
    assert workshop.job(job_id).status == JobStatus.SUCCEEDED


def test_a_state_that_went_away_before_it_was_stored_changes_nothing(workshop: Workshop, tmp_path: Path) -> None:
    job_id = workshop.submit()
    work_until_idle(workshop.prepare)
    with workshop.context.database.write() as session:
        claim = job_queue.claim(session, Stage.TRAIN, owner="w", lease_s=60, gpus=0)
    assert claim is not None
    state = tmp_path / "state"
    with atomic_folder(state) as folder:
        (folder / "weights").write_bytes(b"w")
    attempt = attempt_at(workshop.train, claim, workshop.job(job_id), tmp_path)
    for step in (0, 0, 1):  # the states of a reference pass have step 0
        earlier = workshop.job(job_id).state
        store_state(attempt, step, state)
        stored = workshop.job(job_id).state
        assert stored is not None
        assert earlier is None or stored["before"] == {"step": earlier["step"], "prefix": earlier["prefix"]}
        assert earlier is None or stored["prefix"] != earlier["prefix"]
    for damage in ((state / "weights").unlink, lambda: shutil.rmtree(state)):
        damage()
        with pytest.raises(FileNotFoundError):
            store_state(attempt, 2, state)
        assert workshop.job(job_id).state == stored


def test_a_damaged_state_gives_way_to_the_one_before(workshop: Workshop, tmp_path: Path) -> None:
    storage, hashes = workshop.context.storage, {}
    for step in (1, 2):
        with atomic_folder(tmp_path / str(step)) as folder:
            (folder / "weights").write_bytes(bytes([step]))
        hashes[step] = store_folder(storage, tmp_path / str(step), f"states/j/1/{step}")
    state: SavedState = {"step": 2, "prefix": "states/j/1/2", "before": {"step": 1, "prefix": "states/j/1/1"}}
    storage.write_bytes("states/j/1/2/weights", b"damaged")
    fetch_state(storage, state, tmp_path / "resume")
    assert (tmp_path / "resume" / "weights").read_bytes() == bytes([1])
    storage.delete(["states/j/1/1/manifest.json"])
    fetch_state(storage, state, tmp_path / "anew")
    assert not (tmp_path / "anew").exists()


def test_a_damaged_state_is_forgotten_once_the_one_before_was_fetched(workshop: Workshop, tmp_path: Path) -> None:
    """Else it would be kept beside the next state, in place of the intact one."""
    job_id = workshop.submit()
    work_until_idle(workshop.prepare)
    claim = claim_next(workshop.train, Slot())
    assert claim is not None
    with atomic_folder(tmp_path / "state") as folder:
        (folder / "weights").write_bytes(b"w")
    store_folder(workshop.context.storage, tmp_path / "state", "states/intact")
    intact: SavedState = {"step": 1, "prefix": "states/intact"}
    with workshop.context.database.write() as session:
        session.get_one(Job, job_id).state = {"step": 2, "prefix": "states/damaged", "before": intact}
    assert _fetch_state(attempt_at(workshop.train, claim, workshop.job(job_id), tmp_path)) == 1
    assert workshop.job(job_id).state == intact


def test_a_loss_that_is_no_number_is_told_and_breaks_nothing(workshop: Workshop, tmp_path: Path) -> None:
    job_id = workshop.submit()
    work_until_idle(workshop.prepare)
    with workshop.context.database.write() as session:
        claim = job_queue.claim(session, Stage.TRAIN, owner="w", lease_s=60, gpus=0)
    assert claim is not None
    progress = Progress(attempt_at(workshop.train, claim, workshop.job(job_id), tmp_path))
    progress.add(MetricsReport.of({"step": 1, "total_steps": 6, "train_loss": None, "valid_loss": None, "tokens": 3}))
    progress.flush(force=True)
    with workshop.context.database.read() as session:
        (event,) = events.page(session, job_id, after=None, limit=1).data
    assert event.message == "Step 1/6: training loss=not a number, validation loss=not a number"


def test_a_pause_that_was_acknowledged_outlives_the_worker(workshop: Workshop) -> None:
    job_id = workshop.submit()
    with workshop.context.database.write() as session:
        asked = {"status": JobStatus.RUNNING, "owner": "dead", "lease_until": db_now() - 1, "pause_requested": True}
        session.execute(update(Job).where(Job.id == job_id).values(**asked))
    judge(workshop)
    assert workshop.job(job_id).status == JobStatus.PAUSED


def judge(workshop: Workshop) -> None:
    """Take back the jobs of silent workers, as one that has watched for long enough."""
    workshop.train.visibility = Visibility(lease_s=0)
    requeue_expired(workshop.train)


def test_a_base_model_that_is_gone_fails_the_job_clearly(workshop: Workshop) -> None:
    job_id = workshop.submit()
    with workshop.context.database.write() as session:
        session.delete(base_models.get(workshop.context, "tiny"))
    workshop.work()
    job = workshop.job(job_id)
    assert (job.status, error_of(job)["param"]) == (JobStatus.FAILED, "model")


def test_a_silent_workers_job_goes_to_another(workshop: Workshop) -> None:
    job_id = workshop.submit()
    workshop.train_once()  # prepares and trains; then as if its worker had died in the middle
    with workshop.context.database.write() as session:
        session.execute(
            update(Job)
            .where(Job.id == job_id)
            .values(status=JobStatus.RUNNING, owner="dead", lease_until=db_now() - 1, fence=7)
        )
    judge(workshop)
    job = workshop.job(job_id)
    assert (job.status, job.owner, job.fence, job.faults["worker_lost"]) == (JobStatus.QUEUED, None, 8, 1)


CHARGED = [
    (reason, policy.retries)
    for reason, policy in FAILURES.items()
    if policy.retries is not None and reason is not FailureReason.POISON
]


@pytest.mark.parametrize(("reason", "retries"), CHARGED)
def test_each_class_of_fault_has_its_own_number_of_retries(
    workshop: Workshop, reason: FailureReason, retries: int
) -> None:
    job_id = workshop.submit()
    statuses = [settled(workshop, job_id, reason) for _ in range(retries + 1)]
    assert statuses == [JobStatus.QUEUED] * retries + [JobStatus.FAILED]
    assert error_of(workshop.job(job_id))["code"] == FAILURES[reason].code
    assert len(BACKOFF_S) >= retries


@pytest.mark.parametrize("reason", [reason for reason, policy in FAILURES.items() if policy.retries is None])
def test_faults_of_the_infrastructure_never_fail_a_job(workshop: Workshop, reason: FailureReason) -> None:
    job_id = workshop.submit()
    assert {settled(workshop, job_id, reason) for _ in range(30)} == {JobStatus.QUEUED}


def settled(workshop: Workshop, job_id: str, reason: FailureReason) -> str:
    """What becomes of the job if another attempt ends so."""
    with workshop.context.database.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(status=JobStatus.RUNNING))
    with workshop.context.database.write() as session:
        job = jobs.lock(session, job_id)
        assert job is not None
        retry_or_fail(session, job, AttemptFailed(reason))
    return workshop.job(job_id).status
