"""Pipelines over HTTP: accepted whole or not at all, shown with their lineage, cancelled at once."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.context import Context
from tests.api.routes.test_files import upload
from tests.factories import a_base_model, the_job

URL = "/v1/fine_tuning/pipelines"


@pytest.fixture
def file_id(client: TestClient, served: Context) -> str:
    a_base_model(served.database)
    return str(upload(client).json()["id"])


def rlhf(file_id: str, **changes: Any) -> dict[str, Any]:
    """Imitate, learn what is preferred, then be rewarded for it."""
    stages = [
        {"name": "sft", "training_file": file_id, "technique": {"type": "lora", "rank": 4}},
        {"name": "judge", "training_file": file_id, "method": {"type": "reward"}},
        {"name": "ppo", "training_file": file_id, "method": {"type": "ppo"}},
    ]
    return {"model": "tiny", "stages": stages, "suffix": "x"} | changes


def test_the_stages_are_jobs_that_know_of_each_other(client: TestClient, served: Context, file_id: str) -> None:
    made = client.post(URL, json=rlhf(file_id)).json()
    sft, judge, ppo = made["stages"]
    assert (made["object"], made["status"]) == ("fine_tuning.pipeline", "validating_files")
    assert [sorted(stage["needs"]) for stage in made["stages"]] == [[], ["sft"], ["judge", "sft"]]
    sft_model = the_job(served.database, sft["job_id"]).model_id
    assert (sft["model"], judge["model"], ppo["model"]) == ("tiny", sft_model, sft_model)
    job = client.get(f"/v1/fine_tuning/jobs/{ppo['job_id']}").json()
    assert job["pipeline"] == {"id": made["id"], "stage": "ppo"}
    assert (job["parent"], job["base_model"], job["technique"]["rank"]) == (sft_model, "tiny", 4)
    assert job["method"]["ppo"]["reward_model"] == the_job(served.database, judge["job_id"]).model_id
    assert job["user_provided_suffix"] == "x-ppo"
    assert client.get(f"{URL}/{made['id']}").json() == made


@pytest.mark.parametrize(
    ("stage", "param", "code"),
    [
        ({"training_file": "file-none"}, "stages.2.training_file", "file_not_found"),
        ({"model": "stage:later"}, "stages.2.model", "unknown_stage"),
        ({"model": "stage:judge"}, "stages.2.method.type", "cannot_continue"),
        ({"name": "sft"}, "stages.2.name", "invalid_value"),
        ({"technique": {"type": "lora", "rank": 8}}, "stages.2.technique.rank", "cannot_continue"),
        ({"method": {"type": "ppo", "ppo": {"reward_model": "stage:sft"}}}, "stages.2.method.ppo.reward_model",
         "invalid_reward_model"),
        ({"method": {"type": "ppo", "ppo": {"clip_range": 2}}}, "stages.2.method.ppo.clip_range", "invalid_value"),
        ({"trainig_file": "f"}, "stages.2.trainig_file", "invalid_value"),
    ],
)  # fmt: skip
def test_a_mistake_in_one_stage_refuses_them_all_and_is_named(
    client: TestClient, file_id: str, stage: dict[str, Any], param: str, code: str
) -> None:
    body = rlhf(file_id)
    body["stages"][2] = body["stages"][2] | stage
    refused = client.post(URL, json=body)
    error = refused.json()["error"]
    assert (refused.status_code, error["param"], error["code"]) == (400, param, code)
    assert client.get("/v1/fine_tuning/jobs").json()["data"] == []
    assert client.get(URL).json()["data"] == []


def test_a_pipeline_counts_as_many_jobs_as_it_has_stages(settings, served: Context, file_id: str) -> None:
    from api.main import create_app  # noqa: PLC0415
    from tests.api.conftest import client_of  # noqa: PLC0415

    client = client_of(create_app(settings.model_copy(update={"max_active_jobs": 2})), "default")
    assert client.post(URL, json=rlhf(file_id)).status_code == 429
    assert client.post(URL, json=rlhf(file_id, stages=rlhf(file_id)["stages"][:2])).status_code == 200


def test_cancelling_a_pipeline_cancels_every_stage(client: TestClient, file_id: str) -> None:
    path = f"{URL}/{client.post(URL, json=rlhf(file_id)).json()['id']}/cancel"
    cancelled = client.post(path).json()
    assert {cancelled["status"], *(stage["status"] for stage in cancelled["stages"])} == {"cancelled"}
    again = client.post(path)
    assert (again.status_code, again.json()["error"]["code"]) == (400, "invalid_job_state")


def test_cancelling_a_stage_fails_those_that_need_it(client: TestClient, file_id: str) -> None:
    made = client.post(URL, json=rlhf(file_id)).json()
    client.post(f"/v1/fine_tuning/jobs/{made['stages'][1]['job_id']}/cancel")
    stages = client.get(f"{URL}/{made['id']}").json()["stages"]
    assert [stage["status"] for stage in stages] == ["validating_files", "cancelled", "failed"]
    assert stages[2]["error"]["code"] == "dependency_failed"


def test_pipelines_are_paged_newest_first_and_stay_in_their_project(
    client: TestClient, other_project: TestClient, file_id: str
) -> None:
    first, second = (client.post(URL, json=rlhf(file_id)).json()["id"] for _ in range(2))
    page = client.get(URL, params={"limit": 1}).json()
    assert ([each["id"] for each in page["data"]], page["has_more"]) == ([second], True)
    rest = client.get(URL, params={"after": second}).json()
    assert ([each["id"] for each in rest["data"]], rest["has_more"]) == ([first], False)
    assert other_project.get(URL).json()["data"] == []
    assert other_project.get(f"{URL}/{first}").status_code == 404
    assert other_project.post(f"{URL}/{first}/cancel").json()["error"]["code"] == "pipeline_not_found"
