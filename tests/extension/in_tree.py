"""What a server does with entries that are only known to their catalogues.

tests/test_extension.py runs this in a copy of the project to which it has added the entries of tests/extension/entries.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI
from safetensors.numpy import load

from tests.conftest import running_attune
from tests.end_to_end.jobs import adapter_files, client_of, ended, messages, upload
from tests.services import AttuneUp

RIDDLES = [{"riddle": f"What comes after {number}?", "solution": f" {number + 1}."} for number in range(12)]
PROMPTS = [{"prompt": f"Say {number}.", "reference": str(number)} for number in range(12)]
BRIER = {"type": "brier", "brier": {"exponent": 1, "hyperparameters": {"n_epochs": 1, "batch_size": 6}}}
GRADER = {
    "type": "multi",
    "name": "both",
    "graders": {
        "short": {"type": "brevity", "name": "short", "characters": 50},
        "equal": {
            "type": "string_check",
            "name": "equal",
            "operation": "eq",
            "input": "{{sample.output_text}}",
            "reference": "{{item.reference}}",
        },
    },
    "calculate_output": "short + equal",
}


def jsonl(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture(scope="module")
def server() -> Iterator[AttuneUp]:
    """One without a sampler, with a base model that was converted already: both would only import torch once more."""
    with running_attune(Path(os.environ["TINY_BASE"])) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: AttuneUp) -> OpenAI:
    return client_of(server)


@pytest.fixture(scope="module")
def http(server: AttuneUp) -> httpx.Client:
    headers = {"Authorization": f"Bearer {server.api_key}"}
    return httpx.Client(base_url=server.base_url, headers=headers, timeout=60)


@pytest.fixture(scope="module")
def riddles(client: OpenAI) -> str:
    return upload(client, jsonl(RIDDLES))


@pytest.fixture(scope="module")
def job(client: OpenAI, riddles: str) -> Any:
    extra = {"technique": {"type": "loha"}, "method": BRIER, "training": {"max_steps": 2}}
    created = client.fine_tuning.jobs.create(model="tiny", training_file=riddles, extra_body=extra)
    job = ended(client, created.id)
    assert job.status == "succeeded", (job.error, messages(client, job.id))
    return job


def test_a_job_is_prepared_trained_and_published(client: OpenAI, job: Any) -> None:
    events = [event.data for event in client.fine_tuning.jobs.list_events(job.id, limit=100) if event.type == "metrics"]
    assert sorted(data["step"] for data in events) == [1, 2]  # type: ignore[index]
    assert json.loads(adapter_files(client, job.id)["adapter_config.json"])["peft_type"] == "LOHA"


def test_the_model_card_says_how_to_load_it_and_who_serves_it(client: OpenAI, job: Any) -> None:
    card = adapter_files(client, job.id)["README.md"].decode()
    assert "A loha adapter for `tiny`" in card
    assert "with W frozen (Hyeon-Woo et al. 2021" in card
    assert "bounded" not in card  # the summaries are for the catalogue
    assert "of each supervised token's probability p (after Brier 1950)" in card
    assert "PeftModel.from_pretrained" in card
    assert "load_adapter" not in card
    assert "vLLM serves LoRA adapters only, not those of `loha`." in card


def test_an_estimate_counts_what_is_then_trained(client: OpenAI, http: httpx.Client, riddles: str, job: Any) -> None:
    body = {"model": "tiny", "training_file": riddles, "technique": {"type": "loha"}, "method": BRIER}
    found = http.post("/fine_tuning/estimates", json=body).json()
    assert found["allowed"], found
    assert found["memory"]["activations"] > 0
    weights = load(adapter_files(client, job.id)["adapter_model.safetensors"])
    assert found["trained_parameters"] == sum(weight.size for weight in weights.values())


def test_a_policy_learns_from_the_grader_as_a_part_of_a_formula(client: OpenAI) -> None:
    options = {"grader": GRADER, "max_tokens": 6, "group_size": 2, "hyperparameters": {"n_epochs": 1, "batch_size": 6}}
    extra = {"technique": {"type": "loha"}, "training": {"max_steps": 1}}
    method: Any = {"type": "reinforcement", "reinforcement": options}
    created = client.fine_tuning.jobs.create(
        model="tiny", training_file=upload(client, jsonl(PROMPTS)), method=method, extra_body=extra
    )
    job = ended(client, created.id)
    assert job.status == "succeeded", (job.error, messages(client, job.id))


def test_the_grader_grades_over_http(http: httpx.Client) -> None:
    body = {"grader": GRADER["graders"]["short"], "model_sample": "x" * 25, "item": {}}  # type: ignore[index]
    assert http.post("/fine_tuning/alpha/graders/run", json=body).json()["reward"] == 0.5


def test_the_catalogue_and_the_command_line_list_all_four(server: AttuneUp, http: httpx.Client) -> None:
    found = http.get("/fine_tuning/catalog").json()
    for part, name in {"techniques": "loha", "methods": "brier", "formats": "riddle", "graders": "brevity"}.items():
        assert name in {entry["type"] for entry in found[part]}
    pairs = {(each["technique"], each["method"]) for each in found["combinations"] if each["legal"]}
    assert {("loha", "dpo"), ("qlora", "brier")} <= pairs
    listed = server.run("catalog", "--data-dir", str(server.data))
    assert all(name in listed for name in ("loha", "brier", "riddle", "brevity"))
    help_text = server.run("jobs", "create", "--help")
    assert "loha" in help_text


def test_the_openapi_document_describes_all_four(http: httpx.Client) -> None:
    document = http.get(f"{str(http.base_url).removesuffix('/v1/')}/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert schemas["Loha"]["properties"]["rank"]["maximum"] == 64
    assert {"Brier", "BrierOptions", "Brevity"} <= schemas.keys()
    assert '"riddle"' in json.dumps(schemas["Training"])


def test_a_misspelt_field_is_refused_by_name(client: OpenAI, riddles: str) -> None:
    with pytest.raises(Exception, match=r"technique\.loha\.ranks|technique\.ranks"):
        client.fine_tuning.jobs.create(
            model="tiny", training_file=riddles, extra_body={"technique": {"type": "loha", "ranks": 3}, "method": BRIER}
        )


def test_this_runs_in_the_copy() -> None:
    """And not in the project itself, which has no such entries."""
    assert (Path.cwd() / "api" / "spec" / "techniques" / "loha.py").exists()
