from pathlib import Path
from typing import Any

import pytest

from api.records import workers
from api.records.jobs import Job
from api.services.estimates import estimate
from api.spec.lifecycle import FailureReason, JobStatus, Stage
from api.spec.recipe import Recipe
from tests.hostile import CATASTROPHIC
from tests.worker.prepared import jsonl
from tests.worker.supervisor.conftest import Workshop, attempt_at
from worker.supervisor.child import Child
from worker.supervisor.faults import AttemptFailed
from worker.supervisor.lease import Heartbeat
from worker.supervisor.loop import claim_next, work_until_idle
from worker.supervisor.prepare_child import wait_for_child
from worker.supervisor.slots import Slot

PAIRS = [{"prompt": f"question {n}", "chosen": "yes", "rejected": "no"} for n in range(12)]


def test_a_file_that_crashes_its_reader_fails_the_job_and_is_not_tried_again(
    workshop: Workshop, tmp_path: Path
) -> None:
    job_id = workshop.submit()
    claim = claim_next(workshop.prepare, Slot())
    assert claim is not None
    child = Child("tests.worker.supervisor.crashing", log_file=tmp_path / "log.txt")
    with Heartbeat(workshop.context, claim) as beat, pytest.raises(AttemptFailed, match="about 1,200 rows") as caught:
        wait_for_child(attempt_at(workshop.prepare, claim, workshop.job(job_id), tmp_path, beat), child)
    assert (caught.value.reason, caught.value.code) == (FailureReason.INVALID_FILE, "invalid_validation_file")


def test_pairs_are_prepared_for_a_method_that_wants_them(workshop: Workshop) -> None:
    job_id = workshop.submit(jsonl(*PAIRS), method={"type": "dpo"})
    work_until_idle(workshop.prepare)
    job = workshop.job(job_id)
    assert job.status == JobStatus.QUEUED, job.error
    assert job.resolved is not None
    assert job.resolved["method"]["type"] == "dpo"


def test_a_wrong_format_fails_the_job_in_openais_words(workshop: Workshop) -> None:
    job_id = workshop.submit(jsonl(*PAIRS))
    work_until_idle(workshop.prepare)
    job = workshop.job(job_id)
    assert job.status == JobStatus.FAILED
    assert job.error is not None
    assert "is in the fine-tune-preference format, but the specified fine-tuning job" in job.error["message"]


@pytest.mark.parametrize("pattern", [CATASTROPHIC[0], "(?!model).*q_proj"])
def test_a_pattern_that_older_releases_took_fails_its_own_job_only(workshop: Workshop, pattern: str) -> None:
    workers_memory(workshop)
    hostile, other = workshop.submit(), workshop.submit()
    with workshop.context.database.write() as session:
        stored = session.get_one(Job, hostile)
        stored.recipe = stored.recipe | {"technique": stored.recipe["technique"] | {"target_modules": pattern}}
    work_until_idle(workshop.prepare)
    job = workshop.job(hostile)
    assert job.error is not None
    assert (job.status, job.error["code"], job.error["param"]) == (
        "failed",
        "invalid_recipe",
        "technique.target_modules",
    )
    assert workshop.job(other).status == JobStatus.QUEUED


def workers_memory(workshop: Workshop) -> None:
    """A worker that says what it has: what fits is then asked before a job is queued."""
    with workshop.context.database.write() as session:
        workers.register(session, owner="w", stage=Stage.TRAIN, memory_bytes=8 << 30)


LONG = {"prompt": "question", "completion": " ".join(["word"] * 20)}
SHORT = [{"prompt": f"question {n}", "completion": "yes"} for n in range(12)]


def test_long_rows_are_cut_left_out_or_refused_as_the_job_says(workshop: Workshop) -> None:
    jobs = {
        how: workshop.submit(jsonl(SHORT[0], LONG, *SHORT[1:]), training={"max_length": 40, "overlong": how})
        for how in ("truncate", "drop", "error")
    }
    without = workshop.submit(jsonl(*SHORT))
    work_until_idle(workshop.prepare)
    assert any("1 of the training rows are longer than 40 tokens" in told for told in workshop.told(jobs["truncate"]))
    dropping, refused = workshop.job(jobs["drop"]), workshop.job(jobs["error"])
    assert dropping.resolved is not None
    assert dropping.resolved["overlong"] == "drop"
    assert dropping.work == workshop.job(without).work, "rows that are left out are no work"
    assert any(
        "1 of the training rows are left out: each has more than 40 tokens" in told
        for told in workshop.told(jobs["drop"])
    )
    assert refused.status == JobStatus.FAILED
    assert refused.error is not None
    assert refused.error["code"] == "overlong_rows"
    assert "row 2 with" in refused.error["message"]


def test_rows_longer_than_the_context_are_not_told_to_raise_the_length(workshop: Workshop) -> None:
    rows = jsonl(*[{"prompt": f"question {n} " * 100, "completion": "yes"} for n in range(12)])
    beyond, below = (workshop.submit(rows, training={"max_length": length}) for length in (4096, 40))
    work_until_idle(workshop.prepare)
    error, other = workshop.job(beyond).error, workshop.job(below).error
    assert error is not None
    assert other is not None
    assert error["code"] == "invalid_training_file"
    assert error["message"].endswith(
        "The base model's context is 128 tokens: shorten the rows, or choose a base with a longer context."
    )
    assert other["message"].endswith("Raise training.max_length.")


def test_a_length_beyond_the_context_is_warned_of(workshop: Workshop) -> None:
    job_id = workshop.submit(jsonl(*SHORT), training={"max_length": 4096})
    work_until_idle(workshop.prepare)
    warning = "training.max_length is 4,096, but the base model's context is 128 tokens: 128 is used"
    assert warning in workshop.told(job_id)


def test_a_supervised_job_warns_first_of_labels_that_it_ignores(workshop: Workshop) -> None:
    job_id = workshop.submit(jsonl(*[{"text": f"text {n}", "label": "a"} for n in range(12)]))
    work_until_idle(workshop.prepare)
    warnings = [told for told in workshop.told(job_id) if told.startswith("training file, line")]
    assert warnings[0].startswith("training file, line 1: These rows have labels")
    recipe = Recipe.model_validate(workshop.job(job_id).recipe)
    estimated: Any = estimate(workshop.context, workshop.caller, recipe)["warnings"]
    assert any(warning.startswith("These rows have labels") for warning in estimated), "read from the prepared arrays"
