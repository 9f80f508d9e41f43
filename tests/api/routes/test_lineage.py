"""Jobs that begin from what another job made, and the reward models that they name."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import delete, update

from api.context import Context
from api.records import base_models
from api.records.jobs import Job
from api.records.models import Model
from api.services import base_models as base_model_service
from api.spec.lifecycle import JobStatus
from tests.api.routes.test_jobs import create
from tests.factories import a_base_model, a_model, a_project, the_job

ADAPTER = {"type": "lora", "rank": 4, "alpha": 6}
LABELS, REWARD = {"type": "classification"}, {"type": "reward"}


@pytest.fixture
def project(served: Context) -> str:
    a_base_model(served.database)
    return a_project(served.database)


def error_of(answer: Any) -> tuple[int, str | None]:
    return answer.status_code, answer.json()["error"]["param"]


@pytest.mark.parametrize("ending", ["", ":ckpt-step-5"])
def test_an_adapter_goes_on_with_its_own_technique(
    client: TestClient, served: Context, project: str, ending: str
) -> None:
    parent = a_model(served, project, technique=ADAPTER) + ending
    told = create(client, model=parent).json()
    assert (told["model"], told["parent"], told["base_model"]) == (parent, parent, "tiny")
    assert (told["technique"]["type"], told["technique"]["rank"], told["technique"]["alpha"]) == ("lora", 4, 6)
    assert the_job(served.database, told["id"]).base_weights is None


def test_what_decides_nothing_of_its_shape_may_change(client: TestClient, served: Context, project: str) -> None:
    parent = a_model(served, project, technique=ADAPTER)
    told = create(client, model=parent, technique={"type": "lora", "dropout": 0.1, "rank": 4}).json()
    assert (told["technique"]["dropout"], told["technique"]["rank"]) == (0.1, 4)


@pytest.mark.parametrize(
    ("technique", "param"),
    [
        ({"type": "full"}, "technique.type"),
        ({"type": "dora"}, "technique.type"),
        ({"type": "lora", "rank": 8}, "technique.rank"),
        ({"type": "lora", "target_modules": ["q_proj"]}, "technique.target_modules"),
        ({"type": "lora", "init": "pissa"}, "technique.init"),
    ],
)
def test_another_technique_is_refused_by_its_difference(
    client: TestClient, served: Context, project: str, technique: dict[str, Any], param: str
) -> None:
    parent = a_model(served, project, technique=ADAPTER)
    assert error_of(create(client, model=parent, technique=technique)) == (400, param)


def test_an_adapter_published_with_twice_the_rank_goes_on_so(client: TestClient, served: Context, project: str) -> None:
    parent = a_model(served, project, technique=ADAPTER | {"init": "pissa"})
    technique = create(client, model=parent).json()["technique"]
    assert (technique["init"], technique["rank"], technique["alpha"]) == ("default", 8, 12)


@pytest.mark.parametrize("technique", [None, {"type": "prefix"}, {"type": "full"}])
def test_a_whole_model_is_a_base_for_any_technique(
    client: TestClient, served: Context, project: str, technique: dict[str, Any] | None
) -> None:
    parent = a_model(served, project, technique={"type": "full"})
    told = create(client, model=parent, technique=technique).json()
    assert told["technique"]["type"] == (technique or {"type": "lora"})["type"]
    assert the_job(served.database, told["id"]).base_weights == parent


def test_an_adapter_on_a_whole_model_goes_on_on_that(client: TestClient, served: Context, project: str) -> None:
    whole = a_model(served, project, technique={"type": "full"})
    adapter = a_model(served, project, technique=ADAPTER)
    with served.database.write() as session:
        session.execute(update(Job).where(Job.fine_tuned_model == adapter).values(base_weights=whole))
    row = the_job(served.database, create(client, model=adapter).json()["id"])
    assert (row.base_weights, row.parent_model, row.base_model) == (whole, adapter, "tiny")
    with served.database.write() as session:
        session.execute(update(Job).where(Job.id == row.id).values(status=JobStatus.FAILED))
    refused = client.delete(f"/v1/models/{whole}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "model_in_use")
    assert adapter in refused.json()["error"]["message"]


@pytest.mark.parametrize(("made", "wanted"), [(LABELS, {"type": "supervised"}), (REWARD, LABELS)])
def test_a_model_without_tokens_only_learns_more_of_the_same(
    client: TestClient, served: Context, project: str, made: dict[str, Any], wanted: dict[str, Any]
) -> None:
    parent = a_model(served, project, method=made)
    assert error_of(create(client, model=parent, method=wanted)) == (400, "method.type")
    assert create(client, model=parent, method=made).status_code == 200


def test_a_model_that_a_job_begins_from_stays_until_the_job_has_ended(
    client: TestClient, served: Context, project: str
) -> None:
    parent = a_model(served, project)
    job_id = create(client, model=f"{parent}:ckpt-step-5").json()["id"]
    assert error_of(client.delete(f"/v1/models/{parent}")) == (400, "model")
    client.post(f"/v1/fine_tuning/jobs/{job_id}/cancel")
    assert client.delete(f"/v1/models/{parent}").status_code == 200


def test_another_projects_model_is_no_beginning(other_project: TestClient, served: Context, project: str) -> None:
    parent = a_model(served, project)
    assert create(other_project, model=parent).json()["error"]["code"] == "model_not_found"
    assert error_of(create(other_project, method=ppo(reward_model=parent))) == (400, "method.ppo.reward_model")


def ppo(**options: Any) -> dict[str, Any]:
    return {"type": "ppo", "ppo": options}


def scored_by(model: str) -> dict[str, Any]:
    message = {"role": "user", "content": "{{ sample.output_text }}"}
    score = {"type": "score_model", "name": "s", "model": model, "input": [message]}
    return {"type": "multi", "graders": {"s": score}, "calculate_output": "2 * s"}


def test_a_reward_model_may_judge_and_nothing_else_may(client: TestClient, served: Context, project: str) -> None:
    judge, other = a_model(served, project, method=REWARD), a_model(served, project)
    assert create(client, method=ppo(reward_model=judge)).status_code == 200
    assert create(client, method=ppo(grader=scored_by(judge))).status_code == 200
    assert error_of(create(client, method=ppo(reward_model=other))) == (400, "method.ppo.reward_model")
    by_grader = create(client, method=ppo(grader=scored_by("ft:none")))
    assert error_of(by_grader) == (400, "method.ppo.grader.graders.s.model")


def test_a_reward_model_stays_until_the_jobs_that_it_judges_have_ended(
    client: TestClient, served: Context, project: str
) -> None:
    judge = a_model(served, project, method=REWARD)
    job_id = create(client, method=ppo(grader=scored_by(judge))).json()["id"]
    assert error_of(client.delete(f"/v1/models/{judge}")) == (400, "model")
    client.post(f"/v1/fine_tuning/jobs/{job_id}/cancel")
    assert client.delete(f"/v1/models/{judge}").status_code == 200


def test_a_reward_model_without_a_chat_template_reads_no_messages(
    client: TestClient, served: Context, project: str
) -> None:
    a_base_model(served.database, "plain", chat_template=False)
    judge = a_model(served, project, model="plain", method=REWARD)
    assert create(client, method=ppo(reward_model=judge)).status_code == 200
    refused = create(client, method=ppo(grader=scored_by(judge)))
    assert error_of(refused) == (400, "method.ppo.grader.graders.s.model")


def test_a_reward_model_of_other_tokens_judges_text_only(client: TestClient, served: Context, project: str) -> None:
    a_base_model(served.database, "foreign")
    with served.database.write() as session:
        base = base_models.get(session, "foreign")
        assert base is not None
        base.artifacts = [{"name": "tokenizer.json", "sha256": "0" * 64, "bytes": 1, "key": "k"}]
    judge = a_model(served, project, model="foreign", method=REWARD)
    refused = create(client, method=ppo(reward_model=judge))
    assert error_of(refused) == (400, "method.ppo.reward_model")
    assert "score_model" in refused.json()["error"]["message"]
    assert create(client, method=ppo(grader=scored_by(judge))).status_code == 200


def test_a_checkpoint_whose_base_was_removed_judges_nothing(client: TestClient, served: Context, project: str) -> None:
    a_base_model(served.database, "removed")
    judge, chat = (a_model(served, project, model="removed", method=method) for method in (REWARD, None))
    with served.database.write() as session:
        session.execute(delete(Model).where(Model.id.in_([judge, chat])))
    base_model_service.remove(served, "removed")
    for options, param in (
        ({"reward_model": f"{judge}:ckpt-step-5"}, "reward_model"),
        ({"grader": scored_by(f"{judge}:ckpt-step-5")}, "grader.graders.s.model"),
        ({"grader": scored_by(f"{chat}:ckpt-step-5")}, "grader.graders.s.model"),
    ):
        refused = create(client, method=ppo(**options))
        assert error_of(refused) == (400, f"method.ppo.{param}")
        assert (refused.json()["error"]["code"], "was removed" in refused.text) == ("model_not_found", True)
