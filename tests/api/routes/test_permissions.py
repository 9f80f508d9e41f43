from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import update

from api.context import Context
from api.records import permissions
from api.records.jobs import Job
from tests.api.conftest import client_of
from tests.api.routes.test_jobs import create
from tests.api.routes.test_models import NAME, published
from tests.factories import a_base_model, a_model, a_project

__all__ = ["published"]

CHECKPOINT = f"{NAME}:ckpt-step-5"
PATH = f"/v1/fine_tuning/checkpoints/{CHECKPOINT}/permissions"


@pytest.fixture
def admin(app: FastAPI, published: str) -> TestClient:
    return client_of(app, "default", scope="admin")


@pytest.fixture
def other(served: Context) -> str:
    return a_project(served.database, "other")


def grant(client: TestClient, *project_ids: str, path: str = PATH):
    return client.post(path, json={"project_ids": list(project_ids)})


def can_read(client: TestClient, name: str = CHECKPOINT) -> bool:
    answers = [
        client.get(f"/v1/models/{name}"),
        client.get(f"/v1/models/{name}/artifacts"),
        client.get(f"/v1/models/{name}/artifacts/adapter_config.json"),
    ]
    (status,) = {answer.status_code for answer in answers}
    return bool(status == 200)


def test_a_project_reads_a_checkpoint_while_it_is_permitted(
    admin: TestClient, other_project: TestClient, other: str
) -> None:
    assert not can_read(other_project)
    permission = grant(admin, other).json()["data"][0]
    assert (permission["object"], permission["project_id"]) == ("checkpoint.permission", other)
    assert can_read(other_project)
    assert not can_read(other_project, NAME)
    deleted = admin.delete(f"{PATH}/{permission['id']}").json()
    assert deleted == {"id": permission["id"], "object": "checkpoint.permission", "deleted": True}
    assert not can_read(other_project)


def test_what_is_granted_twice_at_once_is_one_permission(admin: TestClient, other: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: grant(admin, other), range(6)))
    assert {answer.status_code for answer in answers} == {200}, [answer.text for answer in answers]
    assert len({answer.json()["data"][0]["id"] for answer in answers}) == 1


def test_an_id_is_meant_before_a_name(admin: TestClient, other: str, served: Context) -> None:
    a_project(served.database, other)  # whose name is the other's id
    assert [each["project_id"] for each in grant(admin, other).json()["data"]] == [other]


def test_a_finished_model_can_be_permitted_and_stays_its_owners(
    admin: TestClient, other_project: TestClient, other: str, served: Context
) -> None:
    grant(admin, other, path=PATH.replace(CHECKPOINT, NAME.replace("/", "%2F")))
    assert can_read(other_project, NAME)
    assert other_project.delete(f"/v1/models/{NAME}").status_code == 404
    admin.delete(f"/v1/models/{NAME}")
    with served.database.read() as session:
        assert permissions.owner_for(session, other, NAME) == other


def test_to_grant_twice_is_to_grant_once(admin: TestClient, other: str) -> None:
    first, again = grant(admin, other, "other").json(), grant(admin, other).json()
    assert first == again
    assert len(first["data"]) == 1


def test_permissions_are_listed_in_pages_newest_first(admin: TestClient, served: Context) -> None:
    projects = [a_project(served.database, name) for name in ("a", "b", "c")]
    for project_id in projects:
        grant(admin, project_id)
    first = admin.get(PATH, params={"limit": 2}).json()
    assert ([each["project_id"] for each in first["data"]], first["has_more"]) == (projects[:0:-1], True)
    rest = admin.get(PATH, params={"after": first["last_id"]}).json()
    assert ([each["project_id"] for each in rest["data"]], rest["has_more"]) == (projects[:1], False)
    upwards = admin.get(PATH, params={"order": "ascending", "project_id": projects[1]}).json()
    assert [each["project_id"] for each in upwards["data"]] == [projects[1]]


def test_only_an_admin_of_the_owner_gives_and_takes(
    app: FastAPI, admin: TestClient, client: TestClient, other: str
) -> None:
    assert grant(client, other).status_code == 403
    permission = grant(admin, other).json()["data"][0]
    assert client.delete(f"{PATH}/{permission['id']}").status_code == 403
    stranger = client_of(app, "other", scope="admin")
    answers = [grant(stranger, other), stranger.get(PATH), stranger.delete(f"{PATH}/{permission['id']}")]
    assert [answer.status_code for answer in answers] == [404, 404, 404]


@pytest.mark.parametrize(("projects", "param"), [(["proj_none"], "project_ids"), ([], "project_ids")])
def test_unknown_projects_are_named(admin: TestClient, projects: list[str], param: str) -> None:
    refused = grant(admin, *projects)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_what_is_permitted_is_a_beginning_and_a_judge_until_it_is_taken_back(
    admin: TestClient, other_project: TestClient, other: str, served: Context
) -> None:
    a_base_model(served.database)
    owner = a_project(served.database)
    judge = a_model(served, owner, method={"type": "reward"})
    judged = {"type": "ppo", "ppo": {"reward_model": judge}}
    assert create(other_project, model=CHECKPOINT).status_code == 400
    path = PATH.replace(CHECKPOINT, judge)
    rights = [(each, grant(admin, other, path=each).json()["data"][0]["id"]) for each in (PATH, path)]
    told = create(other_project, model=CHECKPOINT, method=judged).json()
    assert (told["parent"], told["base_model"]) == (CHECKPOINT, "tiny")
    for each, right in rights:
        admin.delete(f"{each}/{right}")
    assert create(other_project, model=CHECKPOINT).json()["error"]["code"] == "model_not_found"
    assert create(other_project, method=judged).json()["error"]["code"] == "model_not_found"


def test_an_adapter_is_no_way_to_the_whole_model_below_it(
    admin: TestClient, other_project: TestClient, other: str, served: Context
) -> None:
    a_base_model(served.database)
    owner = a_project(served.database)
    whole, adapter = a_model(served, owner, technique={"type": "full"}), a_model(served, owner)
    with served.database.write() as session:
        session.execute(update(Job).where(Job.fine_tuned_model == adapter).values(base_weights=whole))
    grant(admin, other, path=PATH.replace(CHECKPOINT, adapter))
    refused = create(other_project, model=adapter).json()["error"]
    assert (refused["code"], whole in refused["message"]) == ("cannot_continue", True)
    grant(admin, other, path=PATH.replace(CHECKPOINT, whole))
    assert create(other_project, model=adapter).status_code == 200


@pytest.mark.parametrize(("name", "says"), [(CHECKPOINT, "if its project permits"), (NAME, "without merged weights")])
def test_a_permitted_model_that_is_not_merged_says_so_as_what_it_is(
    admin: TestClient, other_project: TestClient, other: str, name: str, says: str
) -> None:
    grant(admin, other, path=PATH.replace(CHECKPOINT, name))
    error = other_project.get(f"/v1/models/{name}/artifacts?format=merged").json()["error"]
    assert (error["code"], says in error["message"]) == ("no_merged_weights", True)
