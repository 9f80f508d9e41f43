import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from api.context import Context
from api.records.job_queue import Attempt
from api.records.jobs import Job
from api.spec.lifecycle import JobStatus
from api.spec.recipe import Recipe
from tests.api.routes.test_files import upload
from tests.factories import a_base_model, a_job, a_project, the_job


@pytest.fixture
def job(client: TestClient, served: Context) -> dict[str, object]:
    a_base_model(served.database)
    return create(client).json()


def create(client: TestClient, **body: object):
    given = {"model": "tiny", "training_file": upload(client).json()["id"]} | body
    return client.post("/v1/fine_tuning/jobs", json=given)


def put_in(context: Context, job_id: object, status: JobStatus, **values: object) -> None:
    with context.database.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(status=status, **values))


def act(client: TestClient, job_id: object, verb: str):
    return client.post(f"/v1/fine_tuning/jobs/{job_id}/{verb}")


def test_a_new_job_waits_to_have_its_files_validated(client: TestClient, job: dict[str, object]) -> None:
    assert (job["status"], job["object"], job["model"]) == ("validating_files", "fine_tuning.job", "tiny")
    assert str(job["id"]).startswith("ftjob-")
    assert isinstance(job["seed"], int)
    assert client.get(f"/v1/fine_tuning/jobs/{job['id']}").json() == job
    messages = [event["message"] for event in client.get(f"/v1/fine_tuning/jobs/{job['id']}/events").json()["data"]]
    assert messages == [f"Created fine-tuning job: {job['id']}"]


def test_what_was_asked_for_is_shown(client: TestClient, job: dict[str, object]) -> None:
    asked = {
        "suffix": "our support team",
        "seed": 7,
        "metadata": {"team": "a"},
        "technique": {"type": "lora", "rank": 4},
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}, "train_on": "last"}},
    }
    told = create(client, **asked).json()
    assert (told["seed"], told["metadata"], told["user_provided_suffix"]) == (7, {"team": "a"}, "our support team")
    assert (told["technique"]["rank"], told["technique"]["alpha"]) == (4, 8.0)
    assert told["hyperparameters"]["n_epochs"] == 2
    assert told["method"]["supervised"]["train_on"] == "last"


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"model": "unknown"}, "model", "model_not_found"),
        ({"training_file": "file-unknown"}, "training_file", "file_not_found"),
        ({"validation_file": "file-unknown"}, "validation_file", "file_not_found"),
        ({"model": None}, "model", "invalid_value"),
        ({"status": "succeeded"}, "status", "invalid_value"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_at_once(
    client: TestClient, job: dict[str, object], body: dict[str, object], param: str, code: str
) -> None:
    answer = create(client, **body)
    assert answer.status_code == 400, answer.text
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (param, code)


def test_an_accepted_job_survives_a_broker_that_is_away(settings) -> None:
    from api.main import create_app  # noqa: PLC0415
    from tests.api.conftest import client_of  # noqa: PLC0415

    app = create_app(settings.model_copy(update={"broker_url": type(settings.broker_url)("redis://127.0.0.1:1/0")}))
    a_base_model(app.state.context.database)
    assert create(client_of(app, "default")).status_code == 200


def test_cancel_is_final_at_once_and_makes_the_worker_stale(
    client: TestClient, served: Context, job: dict[str, object]
) -> None:
    put_in(served, job["id"], JobStatus.RUNNING, fence=3, owner="w")
    assert act(client, job["id"], "cancel").json()["status"] == "cancelled"
    row = the_job(served.database, str(job["id"]))
    assert (row.fence, row.owner) == (4, None)
    assert row.finished_at is not None
    again = act(client, job["id"], "cancel")
    assert (again.status_code, again.json()["error"]["code"]) == (400, "invalid_job_state")


def test_a_queued_job_pauses_at_once_and_resumes(client: TestClient, served: Context, job: dict[str, object]) -> None:
    put_in(served, job["id"], JobStatus.QUEUED)
    assert act(client, job["id"], "pause").json()["status"] == "paused"
    assert act(client, job["id"], "resume").json()["status"] == "queued"


def test_a_running_job_stays_running_until_its_state_is_saved(
    client: TestClient, served: Context, job: dict[str, object]
) -> None:
    put_in(served, job["id"], JobStatus.RUNNING, owner="w")
    for _ in range(2):
        paused = act(client, job["id"], "pause").json()
        assert (paused["status"], paused["pause_requested"]) == ("running", True)


@pytest.mark.parametrize(
    ("verb", "status"),
    [
        ("pause", JobStatus.VALIDATING_FILES),
        ("pause", JobStatus.PAUSED),
        ("pause", JobStatus.FAILED),
        ("resume", JobStatus.RUNNING),
        ("resume", JobStatus.SUCCEEDED),
        ("cancel", JobStatus.SUCCEEDED),
        ("cancel", JobStatus.FAILED),
    ],
)
def test_what_the_status_does_not_allow_is_a_400_that_no_client_retries(
    client: TestClient, served: Context, job: dict[str, object], verb: str, status: JobStatus
) -> None:
    put_in(served, job["id"], status)
    assert act(client, job["id"], verb).status_code == 400
    assert the_job(served.database, str(job["id"])).status == status


def test_jobs_and_events_are_paged_newest_first(client: TestClient, job: dict[str, object]) -> None:
    newest = create(client).json()
    page = client.get("/v1/fine_tuning/jobs", params={"limit": 1}).json()
    assert ([each["id"] for each in page["data"]], page["has_more"]) == ([newest["id"]], True)
    rest = client.get("/v1/fine_tuning/jobs", params={"after": newest["id"]}).json()
    assert ([each["id"] for each in rest["data"]], rest["has_more"]) == ([job["id"]], False)
    act(client, job["id"], "cancel")
    last = client.get(f"/v1/fine_tuning/jobs/{job['id']}/events", params={"limit": 1}).json()
    assert (last["data"][0]["message"], last["has_more"]) == ("Fine-tuning job cancelled", True)


def test_a_project_has_only_so_many_jobs_at_once(settings) -> None:
    from api.main import create_app  # noqa: PLC0415
    from tests.api.conftest import client_of  # noqa: PLC0415

    app = create_app(settings.model_copy(update={"max_active_jobs": 1}))
    a_base_model(app.state.context.database)
    client = client_of(app, "default")
    create(client)
    refused = create(client)
    assert (refused.status_code, refused.headers["x-should-retry"]) == (429, "false")
    assert create(client_of(app, "other")).status_code == 200


def test_a_project_creates_only_so_many_jobs_in_a_day_though_it_cancels_them(settings) -> None:
    from api.main import create_app  # noqa: PLC0415
    from tests.api.conftest import client_of  # noqa: PLC0415

    app = create_app(settings.model_copy(update={"max_daily_jobs": 1}))
    a_base_model(app.state.context.database)
    client = client_of(app, "default")
    act(client, create(client).json()["id"], "cancel")
    assert create(client).json()["error"]["code"] == "too_many_daily_jobs"
    with app.state.context.database.write() as session:
        session.execute(update(Job).values(created_at=Job.created_at - 24 * 3600))
    assert create(client).status_code == 200


def test_nothing_crosses_projects(client: TestClient, other_project: TestClient, job: dict[str, object]) -> None:
    path, file_path = f"/v1/fine_tuning/jobs/{job['id']}", f"/v1/files/{job['training_file']}"
    for answer in (
        other_project.get(path),
        other_project.get(f"{path}/events"),
        other_project.get(f"{path}/checkpoints"),
        other_project.get(f"{path}/adapter"),
        *(other_project.post(f"{path}/{verb}") for verb in ("cancel", "pause", "resume")),
        other_project.get(file_path),
        other_project.get(f"{file_path}/content"),
        other_project.delete(file_path),
    ):
        assert answer.status_code == 404, answer.url
    borrowed = other_project.post("/v1/fine_tuning/jobs", json={"model": "tiny", "training_file": job["training_file"]})
    assert borrowed.status_code == 400
    assert other_project.get("/v1/fine_tuning/jobs").json()["data"] == []
    assert other_project.get("/v1/files").json()["data"] == []
    assert client.get(path).json() == job


def test_jobs_are_found_by_their_metadata(
    client: TestClient, job: dict[str, object], other_project: TestClient
) -> None:
    first = create(client, metadata={"team": "a b", "env": "x"}).json()["id"]
    second = create(client, metadata={"team": "a b", "env": "y"}).json()["id"]

    def found(query: str) -> list[str]:
        return [each["id"] for each in client.get(f"/v1/fine_tuning/jobs?{query}").json()["data"]]

    assert found("metadata[team]=a b") == [second, first]
    assert found("metadata[team]=a b&metadata[env]=x") == found("metadata[env]=x&metadata[team]=a b") == [first]
    assert found(f"metadata[team]=a b&after={second}") == [first]
    assert found("metadata[team]=a b&status=paused") == []
    assert found("metadata[team]=c") == []
    assert found("metadata=null") == found("metadata=") == [job["id"]]
    assert other_project.get("/v1/fine_tuning/jobs?metadata[team]=a b").json()["data"] == []


def test_attempts_are_listed_with_the_meaning_of_their_outcome(
    client: TestClient, served: Context, job: dict[str, object], other_project: TestClient
) -> None:
    with served.database.write() as session:
        for fence, outcome in enumerate(("queued", "worker_lost", None), 1):
            times = {"started_at": 10.0 * fence, "ended_at": None if outcome is None else 10.0 * fence + 5}
            stage = "prepare" if fence == 1 else "train"
            session.add(Attempt(job_id=job["id"], fence=fence, stage=stage, owner="host:1", outcome=outcome, **times))
    path = f"/v1/fine_tuning/jobs/{job['id']}/attempts"
    first, lost, running = client.get(path).json()["data"]
    assert (first["stage"], first["outcome"], first["explanation"]) == ("prepare", "queued", None)
    assert "worker" in lost["explanation"]
    assert (running["number"], running["started_at"], running["ended_at"]) == (3, 30, None)
    assert other_project.get(path).status_code == 404


def test_jobs_are_found_by_their_status_and_by_a_part_of_a_name(
    client: TestClient, served: Context, job: dict[str, object]
) -> None:
    named = create(client, suffix="maps").json()["id"]
    put_in(served, named, JobStatus.RUNNING)

    def found(**query: str) -> list[str]:
        return [each["id"] for each in client.get("/v1/fine_tuning/jobs", params=query).json()["data"]]

    assert found(status="running") == found(search="MAPS") == found(search=named[6:]) == [named]
    assert found(status="paused", search="maps") == found(search="m%s") == []
    assert found(search="tiny") == [named, job["id"]]
    assert found(status="validating_files", after=named) == [job["id"]]


def test_jobs_are_found_by_their_method_model_and_time(client: TestClient, served: Context) -> None:
    project, ids = a_project(served.database), []
    for number, kind in enumerate(("dpo", "dpo", "supervised", "dpo")):
        recipe = Recipe(model="tiny", training_file="file-none", method={"type": kind}).model_dump(mode="json")
        ids.append(a_job(served.database, project, base_model=f"base-{number // 3}", recipe=recipe))
        parent = "ft:tiny:attune::abcdefgh" if number == 1 else None
        put_in(served, ids[-1], JobStatus.QUEUED, created_at=1000.5 + 10 * number, parent_model=parent)

    def found(**query: str | int) -> list[int]:
        answer = client.get("/v1/fine_tuning/jobs", params=query)
        assert answer.status_code == 200, answer.text
        return [ids.index(each["id"]) for each in answer.json()["data"]]

    assert found(method="dpo") == [3, 1, 0]
    assert found(method="dpo", limit=2) == [3, 1]
    assert found(method="dpo", limit=2, after=ids[2]) == [1, 0]
    assert found(model="base-0", method="dpo") == [1, 0]
    assert found(model="ft:tiny:attune::abcdefgh") == [1]
    assert found(model="base-9") == []
    assert found(created_after=1010, created_before=1030) == [2, 1]
    assert found(created_after=1010, created_before=1030, after=ids[2]) == [1]
    assert found(created_before=1020, after=ids[3]) == [1, 0], "the time is nearer than the cursor"
    assert found(created_before=1030, limit=1, status="queued", method="dpo") == [1]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("method", "sft", "there are supervised"), ("status", "done", "'running'"), ("created_after", "-1", "0")],
)
def test_unknown_values_of_filters_are_refused(client: TestClient, name: str, value: str, words: str) -> None:
    answer = client.get("/v1/fine_tuning/jobs", params={name: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize(("query", "status"), [('metadata[a"b]=x', 400), ("metadata=junk", 400), ("after=%00", 400)])
def test_odd_filters_are_refused_and_never_an_error_of_ours(client: TestClient, query: str, status: int) -> None:
    assert client.get(f"/v1/fine_tuning/jobs?{query}").status_code == status


def test_a_parameter_that_nobody_reads_is_refused(client: TestClient) -> None:
    refused = client.get("/v1/fine_tuning/jobs?limt=3")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "limt")


def test_what_does_not_go_with_the_base_model_is_refused_at_once(client: TestClient, served: Context) -> None:
    a_base_model(served.database, "reader", kind="encoder", model_type="bert")
    refused = create(client, model="reader", method={"type": "supervised"})
    error = refused.json()["error"]
    assert (refused.status_code, error["param"], error["code"]) == (400, "method.type", "unsupported_combination")
    assert "use classification" in error["message"]
    assert create(client, model="reader", method={"type": "classification"}).status_code == 200


GRADER = {"type": "string_check", "name": "g", "operation": "eq", "input": "a", "reference": "a"}
REGRESSION = {"problem": "regression", "class_weights": "balanced"}


@pytest.mark.parametrize(
    ("method", "options", "idle"),
    [
        ("dpo", {"loss": "ipo", "label_smoothing": 0.1}, "label_smoothing"),
        ("dpo", {"loss": "hinge", "label_smoothing": 0.1}, "label_smoothing"),
        ("ppo", {"grader": GRADER, "kl_coefficient": 0, "adaptive_kl": {}}, "adaptive_kl"),
        ("classification", {"problem": "multi_label", "label_smoothing": 0.1}, "label_smoothing"),
        ("classification", REGRESSION, "class_weights"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused_at_once(
    client: TestClient, served: Context, method: str, options: dict[str, object], idle: str
) -> None:
    a_base_model(served.database)
    refused = create(client, method={"type": method, method: options})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, f"method.{method}.{idle}")
    accepted = {name: value for name, value in options.items() if name != idle}
    assert create(client, method={"type": method, method: accepted}).status_code == 200


def test_a_window_that_leaves_nothing_to_the_rows_is_refused_at_once(client: TestClient, served: Context) -> None:
    a_base_model(served.database, context_window=128)
    refused = create(client, technique={"type": "prompt", "tokens": 121})
    error = refused.json()["error"]
    assert (refused.status_code, error["param"], error["code"]) == (400, "technique.tokens", "window_too_small")
    assert create(client, technique={"type": "prompt", "tokens": 120}).status_code == 200


@pytest.mark.parametrize(("technique", "can"), [("prefix", True), ("lora", False)])
def test_recomputation_that_cannot_be_is_refused_at_once(
    client: TestClient, served: Context, technique: str, can: bool
) -> None:
    a_base_model(served.database, context_window=128, recomputes=can)
    refused = create(client, technique={"type": technique}, training={"gradient_checkpointing": True})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "training.gradient_checkpointing")


def test_a_jobs_log_is_text(client: TestClient, other_project: TestClient, job: dict[str, object]) -> None:
    answer = client.get(f"/v1/fine_tuning/jobs/{job['id']}/log")
    assert (answer.status_code, answer.text) == (200, "")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert other_project.get(f"/v1/fine_tuning/jobs/{job['id']}/log").status_code == 404


def test_jobs_of_earlier_releases_are_shown_with_the_current_names_of_options(
    client: TestClient, served: Context
) -> None:
    old = {"technique": {"type": "qlora"}, "method": {"type": "dpo"}}
    recipe = Recipe(model="tiny", training_file="file-none", **old).model_dump(mode="json")
    recipe["technique"]["quantisation"] = recipe["technique"].pop("quantization")
    recipe["method"]["dpo"]["length_normalised"] = recipe["method"]["dpo"].pop("length_normalized")
    job_id = a_job(served.database, a_project(served.database), recipe=recipe)
    shown = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()
    assert shown["technique"]["quantization"] == "nf4"
    assert shown["method"]["dpo"]["length_normalized"] is False
    assert "quantisation" not in shown["technique"]


def test_a_jobs_recipe_creates_the_same_job_again(client: TestClient, served: Context) -> None:
    a_base_model(served.database)
    first = create(client, suffix="house", training={"max_grad_norm": None, "learning_rate": 1e-3}).json()
    recipe = client.get(f"/v1/fine_tuning/jobs/{first['id']}/recipe").json()
    assert recipe["training"]["max_grad_norm"] is None, "null means no clipping, not the default"
    second = client.post("/v1/fine_tuning/jobs", json=recipe).json()
    changing = {"id", "created_at"}
    assert second["id"] != first["id"]
    assert {k: v for k, v in second.items() if k not in changing} == {
        k: v for k, v in first.items() if k not in changing
    }


def test_a_recipe_is_its_projects_own(other_project: TestClient, job: dict[str, object]) -> None:
    assert other_project.get(f"/v1/fine_tuning/jobs/{job['id']}/recipe").status_code == 404


def test_an_unknown_model_is_answered_with_the_names_of_those_that_are_here(
    client: TestClient, served: Context
) -> None:
    error = create(client, model="gpt-4o-mini").json()["error"]
    assert error["message"].endswith("This server has no base model: the operator adds one with `attune models add`")
    for name in [*(f"a{number}" for number in range(9)), "smollm2-135m"]:
        a_base_model(served.database, name)
    error = create(client, model="smollm-135m").json()["error"]
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert error["message"] == (
        "The model `smollm-135m` does not exist here. This server has these base models: smollm2-135m, a0, a1, a2, a3, "
        "a4, a5, a6 and 2 more. GET /v1/models also lists fine-tuned ones"
    )


def test_an_unknown_field_is_answered_with_the_one_that_was_meant(client: TestClient) -> None:
    error = create(client, beta=0.1, method={"type": "dpo"}).json()["error"]
    assert error["message"] == "beta: Unknown field. Did you mean `method.dpo.hyperparameters.beta`?"
