"""Seconds from what a worker was seen to do."""

import pytest

from api.estimate.speed import MAX_JOBS, speed_of, with_job
from api.estimate.stored import Observation, Observations
from api.estimate.work import ComputeCost


def job(flops: float, passes: float, parameters: int = 10**6) -> Observation:
    """Of a worker that computes 10^10 operations and 1,000 passes a second, and starts in 5 s."""
    training_s = flops / 1e10 + passes / 1e3
    return {
        "precision": "float32",
        "flops": flops,
        "passes": passes,
        "training_s": training_s,
        "rest_s": 5.0 + parameters * 1e-8,
        "parameters": parameters,
    }


def seen(*jobs: Observation) -> Observations:
    observed: Observations = {"jobs": []}
    for each in jobs:
        observed = with_job(observed, each)
    return observed


def test_a_worker_that_was_never_seen_is_guessed_by_its_kind() -> None:
    cpu, gpu = (speed_of(None, gpu=gpu, precision="bfloat16") for gpu in (False, True))
    assert not cpu.measured
    assert gpu.flops_per_s > 100 * cpu.flops_per_s


def test_the_guess_for_a_cpu_is_near_a_measured_job() -> None:
    """A hundred steps of LoRA on SmolLM2 (30 layers) with 24,299 tokens took 135 s, loading and publishing 5 s
    (docs/engine-log.md)."""
    guess, parameters = speed_of(None, gpu=False, precision="float32"), 134_515_008
    work = ComputeCost(flops=4.0 * parameters * 24_299, passes=2 * 100 * 30)
    assert 0.5 < guess.training_s(work) / 135 < 2
    assert 0.5 < guess.rest_s(parameters) / 5 < 2


def test_two_kinds_of_jobs_tell_operations_from_passes() -> None:
    speed = speed_of(seen(job(1e12, 100), job(1e9, 50_000)), gpu=False, precision="float32")
    assert speed.training_s(ComputeCost(5e11, 20_000)) == pytest.approx(70, rel=0.05)
    assert speed.rest_s(10**6) == pytest.approx(5.01, rel=0.1)


def test_one_job_alone_predicts_itself() -> None:
    speed = speed_of(seen(job(1e12, 1000)), gpu=False, precision="float32")
    assert speed.training_s(ComputeCost(1e12, 1000)) == pytest.approx(101, rel=0.05)


def test_other_precisions_do_not_count_and_old_jobs_are_forgotten() -> None:
    observed = seen(*[job(1e12, n + 1) for n in range(MAX_JOBS + 5)])
    assert len(observed["jobs"]) == MAX_JOBS
    assert not speed_of(observed, gpu=False, precision="bfloat16").measured
