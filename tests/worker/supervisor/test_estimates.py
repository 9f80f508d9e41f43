"""What a job is expected to take decides whether it is admitted, and stands beside what it took."""

from types import SimpleNamespace
from typing import Any

import pytest

from api.context import Context
from api.estimate.stored import Observation, Observations
from api.estimate.work import Workload
from api.records import workers
from api.records.base import db_now
from api.spec.lifecycle import JobStatus, Stage
from tests.worker.supervisor.conftest import Workshop
from worker.supervisor.estimates import Measured, record_observation
from worker.supervisor.loop import work_until_idle


def register(workshop: Workshop, **machine: Any) -> None:
    with workshop.context.database.write() as session:
        workers.register(session, owner=workshop.train.owner, stage=Stage.TRAIN, **machine)


def test_a_job_that_fits_no_worker_is_refused_before_it_waits(workshop: Workshop) -> None:
    register(workshop, memory_bytes=64 << 20)
    job_id = workshop.submit()
    work_until_idle(workshop.prepare)
    job = workshop.job(job_id)
    assert job.error is not None
    assert (job.status, job.error["code"]) == (JobStatus.FAILED, "does_not_fit")
    assert "the largest worker has 0.1 GiB" in job.error["message"]


def test_a_worker_that_does_not_say_what_it_has_gets_every_job(workshop: Workshop) -> None:
    register(workshop)
    job_id = workshop.submit()
    work_until_idle(workshop.prepare)
    assert workshop.job(job_id).status == JobStatus.QUEUED


def test_predicted_stands_beside_actual_and_teaches_the_next_prediction(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTUNE_FRESH_PROOF", "1")  # the prediction counts the process that reads the files
    register(workshop, memory_bytes=8 << 30)
    job_id = workshop.submit(steps=3)
    workshop.work()
    estimate = workshop.job(job_id).estimate
    assert estimate is not None
    predicted, actual = estimate["predicted"], estimate["actual"]
    assert actual is not None
    assert abs(predicted["memory"]["total"] / actual["peak_bytes"] - 1) < 0.3
    assert actual["seconds"] > actual["training_s"] > 0
    with workshop.context.database.read() as session:
        observed = workers.observations(session, workshop.train.owner)
    assert observed is not None
    (seen,) = observed["jobs"]
    assert seen["flops"] == predicted["flops"]


def test_a_new_worker_inherits_the_measurements_of_a_worker_with_the_same_gpu(context: Context) -> None:
    def observed(training_s: float) -> Observations:
        job = {"precision": "float32", "flops": 1e12, "passes": 1.0, "rest_s": 1.0, "parameters": 1}
        return {"jobs": [Observation(training_s=training_s, **job)]}  # type: ignore[typeddict-item]

    seen = [
        ("old", {"gpus": 1, "device": "H200", "observed": observed(1.0), "seen_at": db_now() - 100}),
        ("newest", {"gpus": 1, "device": "H200", "observed": observed(2.0), "seen_at": db_now() - 50}),
        ("another", {"gpus": 1, "device": "L4", "observed": observed(3.0)}),
        ("processor", {"device": "EPYC", "observed": observed(4.0)}),
        ("new", {"gpus": 1, "device": "H200"}),
        ("other", {"gpus": 1, "device": "T4"}),
        ("slow", {"device": "EPYC"}),
    ]
    with context.database.write() as session:
        for owner, facts in seen:
            workers.register(session, owner=owner, stage=Stage.TRAIN, **facts)  # type: ignore[arg-type]
            workers.inherit_observations(session, owner)
        found = {owner: workers.observations(session, owner) for owner in ("new", "old", "other", "slow")}
    assert found == {"new": observed(2.0), "old": observed(1.0), "other": None, "slow": None}


@pytest.mark.parametrize("settings", ["embedded"], indirect=True)
def test_sequences_that_share_prompts_do_not_make_the_worker_appear_faster(workshop: Workshop) -> None:
    register(workshop)
    base = SimpleNamespace(facts={"parameters": 1, "model_type": "llama"})
    for width, answers in ((1, 1), (2, 1), (1, 8)):
        method = SimpleNamespace(rollout_options=SimpleNamespace(num_generations=answers))
        attempt: Any = SimpleNamespace(node=workshop.train, base=base, recipe=SimpleNamespace(method=method))
        rows = Workload(rows=10, width=width, tokens=1_000, supervised=100, lengths=(100,))
        predicted = {"precision": "float32", "flops": 1e12 * width * answers, "passes": 1.0}
        estimate: Any = {"rows": {"train": rows.stored()}, "predicted": predicted}
        record_observation(attempt, estimate, Measured(seconds=3.0, training_s=2.0))
    with workshop.context.database.read() as session:
        observed = workers.observations(session, workshop.train.owner)
    assert observed is not None
    assert [job["flops"] for job in observed["jobs"]] == [1e12]


@pytest.mark.parametrize("settings", ["embedded"], indirect=True)
@pytest.mark.parametrize("known", [True, False], ids=["a worker restarts", "no worker is known"])
def test_a_job_for_a_gpu_waits_for_a_worker_that_is_away(workshop: Workshop, known: bool) -> None:
    with workshop.context.database.write() as session:
        if known:
            memory = {"memory_bytes": 8 << 30, "gpu_memory_bytes": 8 << 30}
            workers.register(session, owner="gpu", stage=Stage.TRAIN, gpus=1, stopped_at=db_now(), **memory)
            workers.register(session, owner="cpu", stage=Stage.TRAIN, memory_bytes=64 << 20)
    job_id = workshop.submit(resources={"gpus": 1})
    work_until_idle(workshop.prepare)
    job = workshop.job(job_id)
    assert (job.status, job.gpus) == (JobStatus.QUEUED, 1), job.error
