"""Bytes that changed at rest: what can be made again is, and what cannot is named."""

import shutil
from pathlib import Path

import pytest

from api.records import base_models
from api.records.arrays import Arrays
from api.records.files import File
from api.services.base_models import register
from api.spec.lifecycle import JobStatus
from tests.conftest import PRODUCTION
from tests.end_to_end.jobs import rows
from tests.worker.supervisor.conftest import Workshop, attempt_at
from worker.supervisor.loop import claim_next, work_until_idle
from worker.supervisor.prepare import fetch_arrays
from worker.supervisor.slots import Slot

SETTINGS = PRODUCTION


def flip(shop: Workshop, key: str) -> None:
    content = bytearray(b"".join(shop.context.storage.read(key)))
    content[len(content) // 2] ^= 1
    shop.context.storage.write_bytes(key, bytes(content))


def lose(shop: Workshop, key: str) -> None:
    shop.context.storage.delete([key])


def arrays_key(shop: Workshop, job_id: str) -> str:
    with shop.context.database.read() as session:
        return session.get_one(Arrays, shop.job(job_id).arrays["train"]).storage_key


@pytest.mark.parametrize("harm", [flip, lose])
def test_arrays_that_another_job_left_are_made_again(workshop: Workshop, harm: object) -> None:
    first = workshop.submit()
    workshop.work()
    harm(workshop, arrays_key(workshop, first))  # type: ignore[operator]
    second = workshop.submit()
    workshop.work()
    job = workshop.job(second)
    assert (job.status, job.faults) == (JobStatus.SUCCEEDED, {}), job.error


def test_arrays_damaged_before_training_are_made_again(workshop: Workshop) -> None:
    job_id = workshop.submit()
    work_until_idle(workshop.prepare)
    flip(workshop, arrays_key(workshop, job_id))
    workshop.work()
    job = workshop.job(job_id)
    assert (job.status, job.faults) == (JobStatus.SUCCEEDED, {}), job.error


def test_arrays_are_made_again_with_the_time_that_the_chat_template_wrote(
    workshop: Workshop, tiny_base: Path, tmp_path: Path
) -> None:
    dated = shutil.copytree(tiny_base, tmp_path / "dated")
    template = (dated / "chat_template.jinja").read_text()
    (dated / "chat_template.jinja").write_text("{{ strftime_now('%f') }}" + template)
    register(workshop.context, "dated", dated)
    job_id = workshop.submit(model="dated")
    work_until_idle(workshop.prepare)
    lose(workshop, arrays_key(workshop, job_id))
    workshop.work()
    job = workshop.job(job_id)
    assert (job.status, job.faults) == (JobStatus.SUCCEEDED, {}), job.error


def test_job_is_not_trained_on_other_arrays_than_it_was_prepared_with(workshop: Workshop) -> None:
    job_id = workshop.submit()
    work_until_idle(workshop.prepare)
    lose(workshop, arrays_key(workshop, job_id))
    with workshop.context.database.write() as session:  # as an older reader made them
        session.get_one(Arrays, workshop.job(job_id).arrays["train"]).sha256 = "0" * 64
    workshop.train_once()
    assert "Create the job again" in workshop.told(job_id)[-1]


def test_damaged_file_of_a_user_is_named_at_once(workshop: Workshop) -> None:
    job_id = workshop.submit()
    with workshop.context.database.read() as session:
        file = session.get_one(File, workshop.job(job_id).training_file)
    assert file.storage_key is not None
    flip(workshop, file.storage_key)
    work_until_idle(workshop.prepare)
    error = workshop.job(job_id).error
    assert error is not None
    assert (error["code"], error["param"]) == ("damaged_file", "training_file")
    assert f"The file {file.id} is damaged or missing" in error["message"]


def test_damaged_base_model_is_named(workshop: Workshop) -> None:
    with workshop.context.database.read() as session:
        base = base_models.get(session, "tiny")
    assert base is not None
    flip(workshop, next(each["key"] for each in base.artifacts if each["name"] == "model.safetensors"))
    job_id = workshop.submit()
    workshop.work()
    told = " ".join(workshop.told(job_id)) + str(workshop.job(job_id).error)
    assert "The base model tiny is damaged or missing in this server's storage" in told


def test_arrays_without_a_row_are_made_again(workshop: Workshop, tmp_path: Path) -> None:
    """As where they were deleted as old, while the job that uses them was prepared."""
    job_id = workshop.submit()
    work_until_idle(workshop.prepare)
    with workshop.context.database.write() as session:
        session.delete(session.get_one(Arrays, workshop.job(job_id).arrays["train"]))
    claim = claim_next(workshop.train, Slot())
    assert claim is not None
    run = tmp_path / "run"
    run.mkdir()
    fetch_arrays(attempt_at(workshop.train, claim, workshop.job(job_id), run))
    assert (run / "data" / "train.safetensors").exists()


def copy_of_base(workshop: Workshop) -> Path:
    """The weights in the cache of a worker that has trained on them."""
    workshop.submit()
    workshop.work()
    [weights] = workshop.train.cache.glob("base/*/model.safetensors")
    return weights


def test_cut_copy_of_a_base_is_fetched_again(workshop: Workshop) -> None:
    weights = copy_of_base(workshop)
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    job_id = workshop.submit(rows(13))
    workshop.work()
    job = workshop.job(job_id)
    assert (job.status, job.faults) == (JobStatus.SUCCEEDED, {}), job.error
    assert weights.read_bytes() == whole


def test_changed_copy_of_a_base_costs_the_job_none_of_its_retries(workshop: Workshop) -> None:
    weights = copy_of_base(workshop)
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4000] + b"\xff" * 4000)  # NaN
    job_id = workshop.submit(rows(13))
    work_until_idle(workshop.prepare)
    workshop.train_once()
    job = workshop.job(job_id)
    assert job.status == JobStatus.QUEUED, job.error
    assert "The worker's copy of the base model was damaged" in workshop.told(job_id)[-1]
    assert not weights.exists()
