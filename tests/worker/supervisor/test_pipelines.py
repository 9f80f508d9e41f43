"""Pipelines through a worker: each stage begins from what the one before has made."""

from typing import Any

from api.records.jobs import Job
from api.services import pipelines
from api.spec.lifecycle import JobStatus
from api.spec.pipeline import Pipeline
from tests.conftest import EMBEDDED
from tests.end_to_end.jobs import rows
from tests.factories import a_file, error_of
from tests.worker.supervisor.conftest import Workshop
from worker.supervisor.loop import work_until_idle

SETTINGS = EMBEDDED


def submitted(workshop: Workshop, *stages: dict[str, Any], good: bool = True) -> list[str]:
    """Ids of the jobs of a pipeline whose stages train on rows of their own; `good` is whether the first ones' are."""
    project = workshop.caller.project_id
    files = [
        a_file(workshop.context, project, rows(12 if good or index else 3, seed=index)) for index in range(len(stages))
    ]
    named = [{"name": f"s{index}", "training_file": files[index]} | stage for index, stage in enumerate(stages)]
    training = {"max_steps": 3, "precision": "float32", "learning_rate": 1e-3}
    body = Pipeline.model_validate({"model": "tiny", "training": training, "stages": named})
    return [job.id for job in pipelines.create(workshop.context, workshop.caller, body).jobs]


def resolved(job: Job) -> tuple[str, str | None]:
    assert job.resolved is not None
    return job.resolved["model"], job.resolved["continues"]


def test_stages_are_prepared_early_and_trained_in_turn(workshop: Workshop) -> None:
    ids = submitted(workshop, {"technique": {"type": "full"}}, {"technique": {"type": "lora", "rank": 2}}, {})
    work_until_idle(workshop.prepare)
    assert {workshop.job(job_id).status for job_id in ids} == {JobStatus.QUEUED}
    workshop.work()
    whole, adapter, last = (workshop.job(job_id) for job_id in ids)
    assert [job.status for job in (whole, adapter, last)] == [JobStatus.SUCCEEDED] * 3, last.error
    assert resolved(whole) == ("tiny", None)
    assert resolved(adapter) == (whole.fine_tuned_model, None)
    assert resolved(last) == (whole.fine_tuned_model, adapter.fine_tuned_model)
    starts = [job.started_at or 0.0 for job in (whole, adapter, last)]
    ends = [job.finished_at or 0.0 for job in (whole, adapter, last)]
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))


def test_a_stage_whose_rows_are_bad_fails_those_that_need_it_before_anything_trains(workshop: Workshop) -> None:
    first, second = submitted(workshop, {}, {}, good=False)
    workshop.work()
    assert error_of(workshop.job(first))["code"] == "invalid_n_examples"
    error = error_of(workshop.job(second))
    assert error["code"] == "dependency_failed"
    assert "stage 's0'" in error["message"]
    assert "Training file has 3 example(s)" in error["message"]
    assert workshop.told(second)[-1] == error["message"]
