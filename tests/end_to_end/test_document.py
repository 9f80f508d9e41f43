"""The API against its own OpenAPI document: schemathesis asks whatever the document allows, and what it forbids.

It runs in an environment of its own, against the app as production runs it (PostgreSQL, S3, Valkey), with answers to
samplers' requests made up. What it finds it prints, with the request as a curl command.
"""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from api.context import Context
from api.eval_worker.worker import EvalWorker
from api.main import create_app
from api.services import base_models, keys
from api.settings import Settings
from tests import environments
from tests.api.sampler import sampler, says
from tests.conftest import opened
from tests.factories import a_file, a_model, a_project
from tests.receiver import receiving
from tests.services.parts import AttuneApi

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "missing_required_header",
    "ignored_auth",
    "use_after_free",
)
LARGE_BODIES = "create_job|estimate_job|preview_rows|create_pipeline|_grader"
"""To try each value of each of their fields takes thousands of requests: that is left to the long run."""
TOOLS = ("schemathesis==4.32.5", "openapi-spec-validator==0.9.0")
ROW = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
EVAL = {
    "data_source_config": {"type": "custom", "item_schema": {"type": "object"}},
    "testing_criteria": [
        {"type": "string_check", "name": "a", "operation": "eq", "input": "{{ item.a }}", "reference": "a"}
    ],
}
RUN = {"data_source": {"type": "jsonl", "source": {"type": "file_content", "content": [{"item": {"a": "a"}}]}}}


@pytest.fixture(scope="module")
def tools() -> Path:
    """The folder of their programs."""
    return environments.python_with(*TOOLS, folder=environments.CACHE / "schemathesis").parent


@pytest.fixture
def address(postgres_url: str, s3_url: str, valkey_url: str, tiny_base: Path, tmp_path: Path) -> Iterator[str]:
    """Of a server whose default project has one object of each kind, named in schemathesis' dictionaries."""
    settings = Settings(
        data_dir=tmp_path / "data",
        database_url=postgres_url,
        storage_url=s3_url,
        broker_url=valkey_url,
        webhook_private_hosts="127.0.0.1",
    )
    server = AttuneApi(tmp_path, settings)
    with opened(settings) as context, receiving() as receiver, sampler(settings, says("Hi", " there")):
        base_models.register(context, "tiny", tiny_base)
        server.start()
        try:
            (tmp_path / "schemathesis.toml").write_text(_settings(context, server.base_url, receiver.url))
            yield server.base_url.removesuffix("/v1")
        finally:
            server.stop()


def _objects(context: Context, client: httpx.Client, webhook_url: str) -> dict[str, list[str]]:
    """Parameters of the document, and ids of what is there to be put in their places."""
    project = a_project(context.database)
    tuned = a_model(context, project, contents={"adapter_config.json": b"{}", "a/b.bin": b"x"})
    file = a_file(context, project, ROW * 20)
    announced = {"bytes": 3, "filename": "a.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"}
    told = {"event_types": ["fine_tuning.job.failed"], "name": "mine", "url": webhook_url}
    stages = {"model": "tiny", "stages": [{"name": "one", "training_file": file}]}
    made = {
        "path.upload_id": client.post("/uploads", json=announced),
        "path.webhook_id": client.post("/webhook_endpoints", json=told),
        "path.pipeline_id": client.post("/fine_tuning/pipelines", json=stages),
        "path.eval_id": client.post("/evals", json=EVAL),
    }
    runs = f"/evals/{made['path.eval_id'].json()['id']}/runs"
    made["path.run_id"] = client.post(runs, json=RUN)
    asyncio.run(EvalWorker(context).run_until_idle())
    run_id = made["path.run_id"].json()["id"]
    return {
        "body.model": ["tiny", tuned],
        "body.training_file": [file],
        "body.url": [webhook_url],
        "path.file_id": [file],
        "path.job_id": [job["id"] for job in client.get("/fine_tuning/jobs").json()["data"]],
        "path.model": [tuned, f"{tuned}:ckpt-step-5"],
        "path.output_item_id": [item["id"] for item in client.get(f"{runs}/{run_id}/output_items").json()["data"]],
        "path.name": ["adapter_config.json", "a/b.bin"],
        "path.checkpoint": [f"{tuned}:ckpt-step-5"],
        **{parameter: [answer.raise_for_status().json()["id"]] for parameter, answer in made.items()},
    }


def _settings(context: Context, base_url: str, webhook_url: str) -> str:
    """Each of them in seven of ten requests."""
    _, key = keys.create(context, project="default", name="test", scope="admin")
    with httpx.Client(base_url=base_url, headers={"authorization": f"Bearer {key}"}) as client:
        objects = _objects(context, client, webhook_url)
    names = {parameter: parameter.replace(".", "-") for parameter in objects}
    lines = [f"[headers]\nAuthorization = 'Bearer {key}'"]
    lines += [f"[dictionaries.{names[parameter]}]\nvalues = {ids!r}" for parameter, ids in objects.items()]
    bound = [f"{parameter!r} = {{dictionary = {name!r}, probability = 0.7}}" for parameter, name in names.items()]
    return "\n".join([*lines, "[parameters]", *bound, ""])


def ask(tools: Path, folder: Path, address: str, *options: str) -> None:
    command: list[str | Path] = [
        tools / "schemathesis",
        "run",
        f"{address}/openapi.json",
        "--checks",
        ",".join(CHECKS),
        *options,
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.clients
@pytest.mark.parametrize(
    "options",
    [
        ["--phases", "coverage,fuzzing", "--exclude-operation-id-regex", LARGE_BODIES],
        ["--phases", "fuzzing", "--include-operation-id-regex", LARGE_BODIES],
    ],
    ids=["small-bodies", "large-bodies"],
)
def test_no_answer_is_outside_the_document(tools: Path, address: str, tmp_path: Path, options: list[str]) -> None:
    """The same requests each time."""
    ask(tools, tmp_path, address, *options, "--max-examples", "8", "--generation-deterministic")


@pytest.mark.soak
def test_no_answer_is_outside_the_document_for_long(tools: Path, address: str, tmp_path: Path) -> None:
    ask(tools, tmp_path, address, "--max-examples", "100", "--continue-on-failure", "--max-time", "1200")


@pytest.mark.clients
def test_the_document_is_valid(tools: Path, tmp_path: Path) -> None:
    app = create_app(Settings(data_dir=tmp_path))
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(app.openapi()))
    done = subprocess.run([tools / "openapi-spec-validator", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
