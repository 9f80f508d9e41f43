"""Jobs that go on from what another made, and the reward models that judge: what lies in the run folder."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load
from sqlalchemy import delete

from api.records import arrays, base_models, models, permissions
from api.records.job_queue import Claim
from api.records.jobs import Job
from api.records.models import Model
from api.services.lineage import CannotContinue
from api.spec.lifecycle import JobStatus, Stage
from api.spec.recipe import Recipe
from tests.conftest import EMBEDDED
from tests.factories import a_file, a_model, a_project, error_of
from tests.worker.prepared import jsonl
from tests.worker.supervisor.conftest import Workshop, attempt_at
from worker.supervisor.lineage import ParentDeleted, fetch_parent_adapter, fetch_reward_models, fetch_weights
from worker.supervisor.loop import work_until_idle
from worker.supervisor.provenance import origin_of
from worker.supervisor.resolution import resolution_inputs

SETTINGS = EMBEDDED


def trained(workshop: Workshop, **body: Any) -> str:
    """The model of a job that has just been trained."""
    job = workshop.job(workshop.submit(**body))
    workshop.work()
    job = workshop.job(job.id)
    assert job.status == JobStatus.SUCCEEDED, job.error
    return str(job.fine_tuned_model)


def weights_of(workshop: Workshop, model_id: str, name: str) -> dict[str, Any]:
    with workshop.context.database.read() as session:
        model = models.get(session, workshop.caller.project_id, model_id)
    assert model is not None
    key = next(artifact["key"] for artifact in model.artifacts if artifact["name"] == name)
    return dict(load(b"".join(workshop.context.storage.read(key))))


def distance(one: dict[str, Any], two: dict[str, Any]) -> float:
    assert one.keys() == two.keys()
    return max(float(abs(one[name].astype(float) - two[name].astype(float)).max()) for name in one)


STANDING_STILL = {"learning_rate": 1e-12}


@pytest.mark.parametrize("ending", ["", ":ckpt-step-6"])
def test_a_job_goes_on_from_an_adapter_or_a_checkpoint(workshop: Workshop, ending: str) -> None:
    technique = {"type": "lora", "rank": 3, "init": "pissa"}
    parent = trained(workshop, technique=technique, training={"learning_rate": 1e-2})
    child = trained(workshop, model=parent + ending, training=STANDING_STILL)
    files = [weights_of(workshop, model, "adapter_model.safetensors") for model in (parent, child)]
    assert distance(*files) < 1e-6
    resolved = workshop.job(job_of(workshop, child)).resolved
    assert resolved is not None
    assert (resolved["continues"], resolved["model"]) == (parent + ending, "tiny")


def test_what_was_permitted_when_the_job_was_accepted_is_fetched_for_it(workshop: Workshop, tmp_path: Path) -> None:
    database = workshop.context.database
    theirs = a_project(database, "theirs")
    parent = a_model(workshop.context, theirs, {"adapter_config.json": b"{}"})
    with database.write() as session:
        right = permissions.grant(session, theirs, parent, workshop.caller.project_id)
    job = workshop.job(workshop.submit(model=parent))
    with database.write() as session:
        permissions.revoke(session, theirs, parent, right.id)
    fetch_parent_adapter(workshop.train, job, tmp_path / "start")
    assert (tmp_path / "start" / "adapter_config.json").read_bytes() == b"{}"
    with database.read() as session:
        base = base_models.get(session, "tiny")
    assert base is not None
    continues = origin_of(workshop.train, job, base).continues
    assert continues is not None
    assert continues.files.keys() == {"adapter_config.json"}


def job_of(workshop: Workshop, model_id: str) -> str:
    with workshop.context.database.read() as session:
        model = models.get(session, workshop.caller.project_id, model_id)
    assert model is not None
    return model.job_id


def test_a_whole_model_is_the_base_of_what_goes_on_from_it(workshop: Workshop) -> None:
    whole = trained(workshop, technique={"type": "full"}, training={"learning_rate": 1e-2})
    adapter = trained(workshop, model=whole)
    again = trained(workshop, model=adapter, training=STANDING_STILL)
    for model_id, continues in ((adapter, None), (again, adapter)):
        resolved = workshop.job(job_of(workshop, model_id)).resolved
        assert resolved is not None
        assert (resolved["model"], resolved["continues"]) == (whole, continues)
    job = workshop.job(job_of(workshop, again))
    with workshop.context.database.read() as session:
        base = base_models.get(session, "tiny")
    assert base is not None
    folder = fetch_weights(workshop.train, job, base)
    assert (
        distance(load((folder / "model.safetensors").read_bytes()), weights_of(workshop, whole, "model.safetensors"))
        == 0
    )


@pytest.mark.parametrize("technique", ["lora", "full"])
def test_a_parent_that_is_gone_fails_the_job_clearly(workshop: Workshop, technique: str) -> None:
    project = workshop.caller.project_id
    parent = a_model(workshop.context, project, technique={"type": technique})
    job_id = workshop.submit(model=parent)
    work_until_idle(workshop.prepare)
    with workshop.context.database.write() as session:
        session.execute(delete(Model).where(Model.id == parent))
    workshop.work()
    error = error_of(workshop.job(job_id))
    assert (error["param"], error["code"]) == ("model", "invalid_recipe")
    assert f"{parent}, wh" in error["message"]
    assert "was deleted" in error["message"]


def ppo_job(workshop: Workshop, reward_model: str) -> str:
    return workshop.submit(method={"type": "ppo", "ppo": {"reward_model": reward_model}})


def test_judges_lie_in_the_run_folder_each_with_its_base(workshop: Workshop, tmp_path: Path) -> None:
    contents = {"adapter_model.safetensors": b"w", "merged/model.safetensors": b"m"}
    technique = {"type": "lora", "rank": 2, "init": "olora"}
    reward = {"type": "reward"}
    project = workshop.caller.project_id
    judge = a_model(workshop.context, project, contents, technique=technique, method=reward)
    job = workshop.job(ppo_job(workshop, judge))
    fetch_reward_models(workshop.train, Recipe.model_validate(job.recipe), tmp_path)
    listed = json.loads((tmp_path / "judges.json").read_bytes())
    assert listed.keys() == {judge}
    assert (listed[judge]["folder"], listed[judge]["technique"]["rank"]) == ("judges/0", 4)
    assert {path.name for path in (tmp_path / "judges/0").iterdir()} == {"adapter_model.safetensors", "base"}
    assert (tmp_path / "judges/0/base/config.json").exists()


def test_a_judge_that_is_gone_is_named(workshop: Workshop, tmp_path: Path) -> None:
    judge = a_model(workshop.context, workshop.caller.project_id, method={"type": "reward"})
    job = workshop.job(ppo_job(workshop, judge))
    with workshop.context.database.write() as session:
        session.execute(delete(Model).where(Model.id == judge))
    with pytest.raises(ParentDeleted, match="which gives the rewards, was deleted") as gone:
        fetch_reward_models(workshop.train, Recipe.model_validate(job.recipe), tmp_path)
    assert gone.value.param == "method.ppo.reward_model"


def test_a_job_on_a_base_model_has_no_start_and_no_judges(workshop: Workshop, tmp_path: Path) -> None:
    job = workshop.job(workshop.submit())
    fetch_parent_adapter(workshop.train, job, tmp_path / "start")
    fetch_reward_models(workshop.train, Recipe.model_validate(job.recipe), tmp_path)
    assert list(tmp_path.glob("judges*")) == list(tmp_path.glob("start")) == []


def of_no_labels() -> arrays.Arrays:
    return arrays.Arrays(key="k", project_id="p", bytes=1, sha256="0", report={}, created_at=0.0)


PARENTS = ("x", "a", "b", "c")


@pytest.fixture
def classifier(workshop: Workshop) -> str:
    parent = a_model(workshop.context, workshop.caller.project_id, method={"type": "classification"})
    with workshop.context.database.write() as session:
        maker = session.merge(workshop.job(job_of(workshop, parent)))
        maker.resolved = {"labels": {"problem": "single_label", "names": PARENTS}}
    return parent


def continued(workshop: Workshop, parent: str, train: str, validation: str) -> Job:
    """A job that has learnt on from a classifier as far as its rows go: prepared. A letter is a row's label."""
    files = [jsonl(*[{"text": f"row {label}", "label": label} for label in each]) for each in (train, validation)]
    held_out = a_file(workshop.context, workshop.caller.project_id, files[1])
    body: dict[str, Any] = {"model": parent, "method": {"type": "classification"}, "validation_file": held_out}
    job_id = workshop.submit(files[0], **body)
    work_until_idle(workshop.prepare)
    return workshop.job(job_id)


@pytest.mark.parametrize(("train", "validation"), [("ab" * 6, "abcx"), ("a" * 12, "b")])
def test_a_classifier_that_learns_on_from_fewer_labels_keeps_all_of_its_own_in_their_order(
    workshop: Workshop, classifier: str, train: str, validation: str
) -> None:
    job = continued(workshop, classifier, train, validation)
    assert (job.status, job.error) == (JobStatus.QUEUED, None)
    assert job.resolved is not None
    assert job.resolved["labels"] == {"problem": "single_label", "names": list(PARENTS)}


@pytest.mark.parametrize(
    ("train", "validation", "param"), [("abd" * 4, "a", "training"), ("ab" * 6, "d", "validation")]
)
def test_a_label_that_the_classifier_has_not_is_refused_by_its_row(
    workshop: Workshop, classifier: str, train: str, validation: str, param: str
) -> None:
    job = continued(workshop, classifier, train, validation)
    assert job.error is not None
    assert job.error["param"] == f"{param}_file"
    assert f"'label' d does not occur in the labels of {classifier}" in job.error["message"]


@pytest.mark.parametrize("option", [{"class_weights": "balanced"}, {"label_smoothing": 0.1}])
def test_options_of_single_labels_are_refused_where_the_rows_have_others(
    workshop: Workshop, option: dict[str, object]
) -> None:
    rows = jsonl(*[{"text": f"row {number}", "label": ["a", "b"][: number % 3]} for number in range(12)])
    job_id = workshop.submit(rows, method={"type": "classification", "classification": option})
    work_until_idle(workshop.prepare)
    job = workshop.job(job_id)
    assert job.error is not None
    assert job.error["param"] == f"method.classification.{next(iter(option))}"
    assert "it applies only to labels of the kind single_label, and these are multi_label" in job.error["message"]


def test_a_classifier_is_not_made_to_learn_another_kind_of_label(workshop: Workshop, classifier: str) -> None:
    method = {"type": "classification", "classification": {"problem": "regression"}}
    with pytest.raises(CannotContinue, match="'single_label', which cannot become 'regression'") as refused:
        workshop.submit(model=classifier, method=method)
    assert refused.value.param == "method.classification.problem"


def artifacts_of(workshop: Workshop, model_id: str) -> set[str]:
    with workshop.context.database.read() as session:
        model = models.get(session, workshop.caller.project_id, model_id)
    assert model is not None
    return {artifact["name"] for artifact in model.artifacts}


def test_an_adapter_that_vllm_serves_is_merged_only_where_the_job_asks_for_it(workshop: Workshop) -> None:
    kept = artifacts_of(workshop, trained(workshop))
    assert not [name for name in kept if name.startswith("merged/")]
    assert "merged/model.safetensors" in artifacts_of(workshop, trained(workshop, export={"merged": True}))


@pytest.mark.parametrize(("asked", "merged"), [("auto", False), (True, True)])
def test_a_large_base_is_merged_only_where_the_job_asks_for_it(
    workshop: Workshop, asked: object, merged: bool, tmp_path: Path
) -> None:
    job = workshop.job(workshop.submit(export={"merged": asked}, technique={"type": "dora"}))
    with workshop.context.database.write() as session:
        base = base_models.get(session, "tiny")
        assert base is not None
        base.facts = base.facts | {"parameters": 10**9 + 1}
    claim = Claim(job.id, job.project_id, Stage.PREPARE, 1)
    attempt = attempt_at(workshop.prepare, claim, job, tmp_path)
    assert resolution_inputs(attempt, of_no_labels(), None)["merged"] == merged
