"""OpenAI's client for Node against a live server.

It runs once (conformance.mjs); the tests look at what it saw. Node's client checks no answer: the types of the Python
client, which come from the same description, do it here.
"""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from openai.types import Completion, FileDeleted, FileObject, Model, ModelDeleted, Upload
from openai.types.chat import ChatCompletion
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.alpha import GraderRunResponse
from openai.types.fine_tuning.checkpoints import (
    PermissionCreateResponse,
    PermissionDeleteResponse,
    PermissionRetrieveResponse,
)
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from openai.types.uploads import UploadPart
from openai.types.webhooks import FineTuningJobSucceededWebhookEvent
from pydantic import TypeAdapter

from api.infra import webhook_signature
from tests import environments
from tests.end_to_end.clients.environments import node_folder
from tests.end_to_end.clients.proxy import Proxy
from tests.services import AttuneUp

SCRIPT = Path(__file__).with_name("conformance.mjs")
VERSION = "6.49.0"

ERRORS = {
    "epochs out of range": ("BadRequestError", 400, "method.supervised.hyperparameters.n_epochs"),
    "unknown field": ("BadRequestError", 400, "lerning_rate"),
    "unknown method": ("BadRequestError", 400, "method.type"),
    "unknown base model": ("BadRequestError", 400, "model"),
    "unknown training file": ("BadRequestError", 400, "training_file"),
    "body too large": ("APIError", 413, None),
    "cancel after the end": ("BadRequestError", 400, None),
    "no such cursor": ("BadRequestError", 400, "after"),
    "wrong key": ("AuthenticationError", 401, None),
    "read-only key": ("PermissionDeniedError", 403, None),
    "not an admin": ("PermissionDeniedError", 403, None),
    "no such job": ("NotFoundError", 404, "fine_tuning_job_id"),
    "no such file": ("NotFoundError", 404, "id"),
    "no such model": ("NotFoundError", 404, "model"),
    "no such path": ("NotFoundError", 404, None),
    "wrong verb": ("APIError", 405, None),
}
"""What each mistake raises: exception, status, and the field that is named."""

INJECTED = {
    409: ("ConflictError", 3),
    422: ("UnprocessableEntityError", 1),
    429: ("RateLimitError", 3),
    500: ("InternalServerError", 3),
    503: ("InternalServerError", 3),
    507: ("InternalServerError", 3),
}
"""What the client makes of a status, and how often it asks before it gives up."""

LACKS = environments.node_lacks()
pytestmark = pytest.mark.skipif(LACKS is not None, reason=str(LACKS))


@pytest.fixture(scope="module")
def seen(
    live_server: AttuneUp,
    proxy: Proxy,
    read_only_key: str,
    training_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """Everything that the client saw, and how often it asked."""
    secret = webhook_signature.new_secret()
    body = webhook_signature.message("evt_1", "fine_tuning.job.succeeded", "ftjob-1", time.time())
    told = {"body": body.decode(), "headers": webhook_signature.headers("evt_1", body, [secret]), "secret": secret}
    given = {
        "base_url": live_server.base_url,
        "proxy_url": proxy.base_url,
        "api_key": live_server.api_key,
        "read_only_key": read_only_key,
        "training_file": str(training_file),
        "injected": list(INJECTED),
        "webhook": told,
    }
    path = tmp_path_factory.mktemp("node") / "given.json"
    path.write_text(json.dumps(given))
    command: list[str | Path] = ["node", SCRIPT, path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=node_folder(VERSION), check=False)
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "attempts": dict(proxy.attempts)}


def is_a(kind: Any, *answers: Any) -> None:
    """Each is as OpenAI's types say."""
    adapter = TypeAdapter(kind)
    for answer in answers:
        adapter.validate_python(answer)


def test_the_version_under_test_is_the_one_asked_for(seen: dict[str, Any]) -> None:
    assert seen["version"] == VERSION


def test_files_are_sent_whole_or_streamed_and_come_back(seen: dict[str, Any]) -> None:
    files = seen["files"]
    is_a(FileObject, files["streamed"], files["made"], files["retrieved"])
    is_a(FileDeleted, *files["deleted"])
    assert files["streamed"]["expires_at"] == files["streamed"]["created_at"] + 3600
    assert files["same"] == [True, True]
    assert files["processed"] == "processed"
    assert files["paged"][-2:] == [files["streamed"]["id"], files["made"]["id"]]
    assert files["listed"][:2] == [files["made"]["id"], files["streamed"]["id"]]


def test_files_are_sent_in_parts(seen: dict[str, Any]) -> None:
    in_parts = seen["inParts"]
    is_a(Upload, in_parts["begun"], in_parts["completed"], in_parts["cancelled"])
    is_a(UploadPart, in_parts["part"])
    assert in_parts["same"]
    assert (in_parts["completed"]["status"], in_parts["cancelled"]["status"]) == ("completed", "cancelled")


def test_a_job_goes_from_upload_to_a_model(seen: dict[str, Any]) -> None:
    main = seen["mainPath"]
    is_a(FineTuningJob, main["created"], main["job"])
    assert main["job"]["status"] == "succeeded", main["job"]["error"]
    assert main["job"]["technique"]["rank"] == 4
    is_a(FineTuningJobEvent, *main["events"])
    assert main["paged"] == main["events"]
    is_a(FineTuningJobCheckpoint, *main["checkpoints"])
    assert [checkpoint["step_number"] for checkpoint in main["checkpoints"]] == [10, 5]
    assert main["csv"].startswith("step,train_loss")
    assert main["adapter"] > 0


def test_jobs_are_found_by_their_metadata_and_by_having_none(seen: dict[str, Any]) -> None:
    main = seen["mainPath"]
    assert main["listed"] == [main["job"]["id"]]
    assert main["job"]["id"] not in main["unmarked"]


def test_models_are_listed_told_and_deleted(seen: dict[str, Any]) -> None:
    main = seen["mainPath"]
    is_a(Model, main["model"])
    is_a(ModelDeleted, main["deleted"])
    assert {main["job"]["fine_tuned_model"], "tiny"} <= set(main["models"])


def test_checkpoints_are_shared_with_the_admin_key(seen: dict[str, Any]) -> None:
    shared = seen["mainPath"]["shared"]
    is_a(PermissionCreateResponse, *shared["granted"])
    is_a(PermissionRetrieveResponse, shared["retrieved"])
    is_a(PermissionDeleteResponse, shared["deleted"])
    assert shared["listed"] == shared["granted"] == shared["retrieved"]["data"]


def test_a_tuned_model_answers_whole_and_streamed(seen: dict[str, Any]) -> None:
    asked = seen["mainPath"]["asked"]
    is_a(ChatCompletion, asked["chat"])
    is_a(Completion, asked["text"])
    assert (asked["streamed"] or "") == asked["chat"]["choices"][0]["message"]["content"]  # it makes null of no text
    assert asked["usage"] == asked["chat"]["usage"]
    assert asked["pieces"] == asked["text"]["choices"][0]["text"]


def test_every_method_that_the_client_knows_is_taken(seen: dict[str, Any]) -> None:
    methods = seen["methods"]
    is_a(FineTuningJob, *methods["created"].values(), *methods["cancelled"])
    assert {name: job["method"]["type"] for name, job in methods["created"].items()} == {
        "plain": "supervised",
        "old_form": "supervised",
        "dpo": "dpo",
        "reinforcement": "reinforcement",
    }
    assert (methods["paused"]["status"], methods["resumed"]["status"]) == ("paused", "queued")
    assert {job["status"] for job in methods["cancelled"]} == {"cancelled"}


def test_graders_are_validated_and_run(seen: dict[str, Any]) -> None:
    graded = seen["graded"]
    is_a(GraderRunResponse, graded["run"])
    assert graded["validated"] == graded["sent"]
    assert graded["run"]["reward"] == 0.5


def test_webhooks_are_unwrapped_and_forged_ones_are_not(seen: dict[str, Any]) -> None:
    is_a(FineTuningJobSucceededWebhookEvent, seen["webhooks"]["unwrapped"])
    assert seen["webhooks"]["forged"]["exception"] == "InvalidWebhookSignatureError"


@pytest.mark.parametrize("mistake", ERRORS)
def test_a_mistake_raises_once_and_says_what_was_wrong(seen: dict[str, Any], mistake: str) -> None:
    error = seen["errors"][mistake]
    assert (error["exception"], error["status"], error["param"]) == ERRORS[mistake], error
    assert error["type"] == "invalid_request_error"
    assert error["request_id"].startswith("req_")
    assert seen["attempts"][mistake] == 1


@pytest.mark.parametrize("status", INJECTED)
def test_the_client_retries_what_may_pass(seen: dict[str, Any], status: int) -> None:
    name = f"injected {status}"
    assert (seen["errors"][name]["exception"], seen["attempts"][name]) == INJECTED[status]
