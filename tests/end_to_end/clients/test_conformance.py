"""OpenAI's own Python client, three generations of it, against a live server.

Each runs once, in an environment of its own (conformance.py); the tests look at what it saw.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.clients.environments import python_with
from tests.end_to_end.clients.proxy import Proxy
from tests.services import AttuneUp

SCRIPT = Path(__file__).with_name("conformance.py")
NEWEST = "3.57.0"
VERSIONS = (*(pytest.param(version, marks=pytest.mark.clients) for version in ("1.109.1", "2.54.0")), NEWEST)
STEPS = 10  # 20 rows, batches of 4, 2 epochs

MISTAKES = {
    "epochs out of range": ("BadRequestError", 400, "method.supervised.hyperparameters.n_epochs"),
    "unknown field": ("BadRequestError", 400, "lerning_rate"),
    "unknown method": ("BadRequestError", 400, "method.type"),
    "long suffix": ("BadRequestError", 400, "suffix"),
    "unknown base model": ("BadRequestError", 400, "model"),
    "unknown training file": ("BadRequestError", 400, "training_file"),
    "wrong purpose": ("BadRequestError", 400, "purpose"),
    "empty file": ("BadRequestError", 400, "file"),
    "cancel after the end": ("BadRequestError", 400, None),
    "no such cursor": ("BadRequestError", 400, "after"),
    "limit out of range": ("BadRequestError", 400, "limit"),
    "wrong key": ("AuthenticationError", 401, None),
    "read-only key": ("PermissionDeniedError", 403, None),
    "no such job": ("NotFoundError", 404, "fine_tuning_job_id"),
    "no such file": ("NotFoundError", 404, "id"),
    "no such model": ("NotFoundError", 404, "model"),
    "no such path": ("NotFoundError", 404, None),
    "wrong verb": ("APIStatusError", 405, None),
    "grader with a missing module": ("BadRequestError", 400, "grader.source"),
    "grader with a wrong metric": ("BadRequestError", 400, "grader.evaluation_metric"),
    "body too large": ("APIStatusError", 413, None),
}
"""What each mistake raises: exception, status, and the field that is named."""

INJECTED = {
    402: ("APIStatusError", 1),
    403: ("PermissionDeniedError", 1),
    408: ("APIStatusError", 3),
    409: ("ConflictError", 3),
    413: ("APIStatusError", 1),
    415: ("APIStatusError", 1),
    422: ("UnprocessableEntityError", 1),
    429: ("RateLimitError", 3),
    500: ("InternalServerError", 3),
    502: ("InternalServerError", 3),
    503: ("InternalServerError", 3),
    504: ("InternalServerError", 3),
}
"""What the client makes of a status, and how often it asks before it gives up: why Attune answers no 409."""


pytestmark = pytest.mark.timeout(600)  # the first run makes the environments


@pytest.fixture(scope="module", params=VERSIONS)
def seen(
    request: pytest.FixtureRequest,
    live_server: AttuneUp,
    proxy: Proxy,
    read_only_key: str,
    training_file: Path,
    too_short_file: Path,
) -> dict[str, Any]:
    """Everything that one version of the client saw, and how often it asked."""
    proxy.attempts.clear()
    given: list[str | Path] = [proxy.base_url, live_server.api_key, read_only_key, training_file, too_short_file]
    command: list[str | Path] = [python_with(request.param), SCRIPT, *given]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=training_file.parent, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "asked": request.param, "attempts": dict(proxy.attempts)}


def test_the_version_under_test_is_the_one_asked_for(seen: dict[str, Any]) -> None:
    assert seen["version"] == seen["asked"]


def test_a_job_goes_from_upload_to_a_model(seen: dict[str, Any]) -> None:
    main = seen["main"]
    created, job = main["created"], main["job"]
    assert created["status"] == "validating_files"
    assert job["status"] == "succeeded", job["error"]
    assert job["seed"] == 7
    assert job["metadata"] == {"by": "test"}
    assert job["hyperparameters"] == {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 5.0}
    assert job["trained_tokens"] > 0
    assert job["fine_tuned_model"].startswith("ft:tiny:attune:conformance:")
    assert main["model"]["id"] == job["fine_tuned_model"]
    assert {job["fine_tuned_model"], "tiny"} <= set(main["listed_models"])
    assert job["id"] in main["listed_jobs"]


def test_events_come_newest_first_and_page_without_gap_or_repeat(seen: dict[str, Any]) -> None:
    main = seen["main"]
    assert main["events_paged"] == main["events"]
    assert main["latest_event"] == main["events"][0]["message"] == "The job has successfully completed"
    assert main["events"][-1]["message"] == f"Created fine-tuning job: {main['job']['id']}"
    steps = [event["data"]["step"] for event in main["events"] if event["type"] == "metrics"]
    assert steps == list(range(STEPS, 0, -1))


def test_checkpoints_are_listed_with_their_metrics(seen: dict[str, Any]) -> None:
    checkpoints = seen["main"]["checkpoints"]
    assert [checkpoint["step_number"] for checkpoint in checkpoints] == [10, 5]
    assert all(checkpoint["metrics"]["train_loss"] > 0 for checkpoint in checkpoints)


def test_results_and_adapter_are_files_that_the_client_downloads(seen: dict[str, Any]) -> None:
    main = seen["main"]
    header, *rows = main["csv"].splitlines()
    assert header.startswith("step,train_loss")
    assert len(rows) == STEPS
    assert {"adapter_model.safetensors", "adapter_config.json"} <= set(main["adapter"])
    assert {file["purpose"] for file in main["result_files"]} == {"fine-tune-results"}


def test_files_come_back_as_they_were_sent_and_are_deleted(seen: dict[str, Any]) -> None:
    main = seen["main"]
    assert main["content_is_what_was_sent"]
    assert main["created"]["training_file"] in main["listed_files"]
    assert main["deleted_file"]["deleted"]
    assert main["deleted_model"]["deleted"]


def test_the_deprecated_form_is_taken_and_a_cancel_is_at_once(seen: dict[str, Any]) -> None:
    assert seen["other_ends"]["old_form"]["hyperparameters"]["n_epochs"] == 50
    assert seen["other_ends"]["cancelled"]["status"] == "cancelled"


def test_a_file_that_does_not_do_fails_the_job_with_a_code(seen: dict[str, Any]) -> None:
    failed = seen["other_ends"]["failed"]
    assert failed["status"] == "failed"
    assert failed["error"]["code"] == "invalid_n_examples"
    assert "at least 10 examples" in failed["error"]["message"]
    assert failed["error"]["param"] == "training_file"


def test_graders_come_back_as_they_were_sent_and_grade(seen: dict[str, Any]) -> None:
    graded = seen["graded"]
    assert graded["validated"] == graded["sent"]
    assert {name: run["reward"] for name, run in graded["right"].items()} == {"check": 1, "likeness": 1, "several": 0.5}
    assert graded["right"]["several"]["sub_rewards"] == {"right": 1}
    assert graded["missing"]["reward"] == 0
    assert graded["missing"]["metadata"]["errors"]["invalid_variable_error"]


def test_files_can_be_sent_in_parts(seen: dict[str, Any]) -> None:
    in_parts = seen["in_parts"]
    assert {in_parts["chunked"]["status"], in_parts["ordered"]["status"]} == {"completed"}
    assert in_parts["contents_are_what_was_sent"] == [True, True]
    assert in_parts["cancelled"]["status"] == "cancelled"


def test_azures_client_finds_the_same_calls(seen: dict[str, Any]) -> None:
    assert seen["as_azure"]["file"]["deleted"]
    assert seen["as_azure"]["jobs"]
    assert "tiny" in seen["as_azure"]["models"]


def test_checkpoints_are_shared(seen: dict[str, Any]) -> None:
    shared = seen["main"]["shared"]
    assert [each["id"] for each in shared["listed"]["data"]] == [shared["granted"]["id"]]
    assert shared["deleted"]["deleted"]


def test_webhooks_are_kept(seen: dict[str, Any]) -> None:
    assert (seen["told"] is not None) == (seen["version"] == NEWEST)
    if webhooks := seen["told"]:
        assert webhooks["made"]["id"] in webhooks["listed"]
        assert webhooks["retrieved"] == webhooks["updated"]
        assert "fine_tuning.job.failed" in webhooks["types"]
        assert webhooks["made"]["signing_secret"] != webhooks["rotated"]["signing_secret"]


def test_evals_grade_every_item_by_every_kind_of_grader(seen: dict[str, Any]) -> None:
    evaluated = seen["evaluated"]
    run, names = evaluated["run"], {"says it", "near", "a text", "labelled", "scored"}
    assert run["status"] == "completed", run["error"]
    assert run["result_counts"]["total"] == 2
    assert {each["testing_criteria"] for each in run["per_testing_criteria_results"]} == names
    for item in evaluated["items"]:
        errors = {each["name"]: (each["error"] or {}).get("message", "") for each in item["results"]}
        assert errors.keys() == names
        judged = {name for name, error in errors.items() if "maximum context length is 128 tokens" in error}
        assert judged == {"labelled", "scored"}, errors  # the tiny model is asked, but has no room for the question
        assert not any(error for name, error in errors.items() if name not in judged)
    assert evaluated["item"] == evaluated["items"][0]
    assert evaluated["updated"] == evaluated["retrieved"]
    assert (evaluated["made"]["name"], evaluated["updated"]["name"]) == ("first", "second")
    assert evaluated["made"]["id"] in evaluated["listed"]
    assert run["id"] in evaluated["runs"]
    assert evaluated["cancelled"] == "canceled"
    assert evaluated["deleted_run"]["run_id"] == run["id"]
    assert evaluated["deleted"]["deleted"]


def test_batches_are_answered(seen: dict[str, Any]) -> None:
    in_batches = seen["in_batches"]
    batch, (answer,) = in_batches["batch"], in_batches["answers"]
    assert (batch["status"], batch["request_counts"]["completed"]) == ("completed", 1)
    assert (answer["custom_id"], answer["response"]["status_code"]) == ("0", 200)
    assert batch["id"] in in_batches["listed"]
    assert in_batches["cancelled"] in ("cancelling", "cancelled")


def test_a_request_sent_again_makes_no_second_job(seen: dict[str, Any]) -> None:
    retried = seen["retried"]
    assert retried["again"] == retried["first"]
    assert len({*retried["keyed"], retried["first"]}) == 2


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_raises_once_and_says_what_was_wrong(seen: dict[str, Any], mistake: str) -> None:
    exception, status, param = MISTAKES[mistake]
    error = seen["errors"][mistake]
    assert (error["exception"], error["status"]) == (exception, status), error
    assert error["param"] == param, error
    assert error["type"] == "invalid_request_error"
    assert error["code"] is not None or status == 400, error
    assert error["request_id"].startswith("req_")
    assert seen["attempts"][mistake] == 1


@pytest.mark.parametrize("status", INJECTED)
def test_the_client_retries_what_may_pass(seen: dict[str, Any], status: int) -> None:
    name = f"injected {status}"
    assert (seen["errors"][name]["exception"], seen["attempts"][name]) == INJECTED[status]
    assert seen["errors"][name]["code"] == f"injected_{status}"
