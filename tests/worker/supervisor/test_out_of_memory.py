"""A job whose trainer the kernel kills for memory."""

import itertools
from typing import cast

import pytest
from sqlalchemy import update

from api.estimate.machine_fields import Machine
from api.estimate.stored import StoredEstimate, StoredPrediction
from api.records.jobs import Job
from api.spec.lifecycle import FailureReason, JobStatus
from tests.api.estimate.test_machine_fields import a_recipe
from tests.conftest import EMBEDDED
from tests.worker.supervisor.conftest import Workshop
from worker.shared import gpus
from worker.shared.gpus import Gpu
from worker.supervisor import train
from worker.supervisor.faults import AttemptFailed
from worker.supervisor.out_of_memory import killed_for_memory, require_free_memory

SETTINGS = EMBEDDED


def training_bytes(predicted: StoredPrediction) -> int:
    """Return the predicted peak of training. The total may be that of publishing, the same with any micro-batch."""
    memory = predicted["memory"]
    return sum(size for part, size in memory.items() if part not in {"publishing", "total"})


def test_it_is_tried_again_with_less(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    kills = itertools.count()
    monkeypatch.setattr(train, "out_of_memory_kills", lambda: next(kills))
    monkeypatch.setenv("ATTUNE_FAIL_AT", "step:3:kill")
    hyperparameters = {"n_epochs": 6, "batch_size": 12}
    method = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
    job_id = workshop.submit(method=method, training={"save_every": 1})
    workshop.train_once()
    killed = workshop.job(job_id)
    assert (killed.status, killed.faults["out_of_memory"]) == (JobStatus.QUEUED, 1)
    assert killed.estimate is not None
    tokens, before = killed.estimate["less"]["micro_batch_tokens"], killed.estimate["predicted"]
    assert 0 < tokens < before["micro_batch_tokens"]
    assert f"Out of memory: the next attempt uses micro-batches of {tokens} tokens." in workshop.told(job_id)
    monkeypatch.delenv("ATTUNE_FAIL_AT")
    with workshop.context.database.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(run_after=None))
    workshop.train_once()
    done = workshop.job(job_id)
    assert done.status == JobStatus.SUCCEEDED, "the saved state still belongs to it"
    resumed = {f"Fine-tuning job resumes from step {step}" for step in (1, 2)}
    assert resumed & set(workshop.told(job_id)), "the state of step 2 may not have been complete at step 3"
    assert done.resolved == killed.resolved
    assert done.estimate is not None
    after = done.estimate["predicted"]
    assert after["micro_batch_tokens"] == tokens
    assert training_bytes(after) < training_bytes(before)


def test_the_last_failure_has_the_numbers() -> None:
    recipe = a_recipe().model_copy(update={"micro_batch_tokens": 512})
    estimate = cast(StoredEstimate, {"predicted": {"memory": {"total": int(2.1 * 2**30)}}})
    fault = killed_for_memory(recipe, Machine(False, True, int(2.5 * 2**30)), estimate)
    assert fault.died_at is None, "nothing of the data killed it: it is no poison"
    assert "micro-batches of 512 tokens and was estimated to need about 2.1 of 2.5 GiB" in fault.message


GIB = 2**30


def a_prediction(needed: int) -> StoredEstimate:
    return cast(StoredEstimate, {"predicted": {"memory": {"total": needed}}})


def test_a_job_waits_for_a_gpu_that_others_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "list_gpus", lambda: [Gpu("0", "GPU-8f3a", 24 * GIB, 8 * GIB, (8, 9))])
    with pytest.raises(AttemptFailed, match=r"8\.0 of 24\.0 GiB are free, and the job needs about 12\.0 GiB") as caught:
        require_free_memory("0", a_prediction(12 * GIB))
    assert (caught.value.reason, caught.value.excused) == (FailureReason.WORKER_FAULT, True)


@pytest.mark.parametrize(
    ("name", "needed"),
    [("0", 9 * GIB), ("0", 30 * GIB), ("MIG-7", 12 * GIB)],
    ids=["may fit", "never fits", "unknown memory"],
)
def test_a_job_that_need_not_wait_for_a_gpu_is_tried(name: str, needed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "list_gpus", lambda: [Gpu("0", "GPU-8f3a", 24 * GIB, 8 * GIB, (8, 9))])
    require_free_memory(name, a_prediction(needed))
