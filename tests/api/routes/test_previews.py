"""Previews and estimates, through the API and a real child."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.context import Caller, Context
from api.infra.child_environment import child_environment
from api.infra.latest import Latest
from api.infra.preview_process import PreviewProcesses
from api.main import create_app
from api.records import arrays, files, workers
from api.records import base_models as records
from api.records.arrays import Arrays
from api.records.base import db_now
from api.services import base_models, budgets, previews
from api.spec.lifecycle import Stage
from api.spec.recipe import Recipe
from tests.api.conftest import client_of
from tests.conftest import EMBEDDED
from tests.factories import a_file, a_model, a_project
from tests.worker.prepared import jsonl

SETTINGS = EMBEDDED

CHAT = {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "four"}]}
PAIR = {"prompt": "2 + 2?", "chosen": "four", "rejected": "five"}


@pytest.fixture
def server(served: Context, tiny_base: Path) -> Context:
    base_models.register(served, "tiny", tiny_base)
    return served


@pytest.fixture
def worker(server: Context) -> None:
    with server.database.write() as session:
        workers.register(session, owner="w", stage=Stage.TRAIN, memory_bytes=8 << 30)


def post(client: TestClient, what: str, content: bytes, **body: Any) -> Any:
    file = client.post("/v1/files", files={"file": ("r.jsonl", content)}, data={"purpose": "fine-tune"}).json()
    return client.post(f"/v1/fine_tuning/{what}", json={"model": "tiny", "training_file": file["id"]} | body)


def test_a_preview_shows_text_tokens_and_what_is_learnt(client: TestClient, server: Context) -> None:
    preview = post(client, "previews", jsonl(*[CHAT] * 12), rows=2).json()
    assert (preview["format"], len(preview["rows"])) == ("chat", 2)
    (sequence,) = preview["rows"][0]["sequences"]
    (begin, end, weight) = sequence["spans"][0]
    assert "".join(sequence["token_texts"][int(begin) : int(end)]) == "four</turn>"
    assert (weight, sequence["supervised_tokens"], sequence["cut_at"]) == (1.0, end - begin, None)
    assert "".join(sequence["token_texts"]) == sequence["text"]


def test_a_key_that_can_only_read_previews_and_estimates(app: FastAPI, client: TestClient, server: Context) -> None:
    file = client.post("/v1/files", files={"file": ("r.jsonl", jsonl(*[CHAT] * 12))}, data={"purpose": "fine-tune"})
    body = {"model": "tiny", "training_file": file.json()["id"]}
    reader = client_of(app, "default", "read")
    paths = [f"/v1/fine_tuning/{what}" for what in ("previews", "estimates", "jobs")]
    assert [reader.post(path, json=body).status_code for path in paths] == [200, 200, 403]
    azure = reader.post("/openai/v1/fine_tuning/estimates", json=body)
    assert azure.status_code == 200


def test_a_preview_shows_where_rows_are_cut_and_which_are_dropped(client: TestClient, server: Context) -> None:
    body = {"rows": 1, "training": {"max_length": 20}}
    (row,) = post(client, "previews", jsonl(*[CHAT] * 12), **body).json()["rows"]
    assert (row["sequences"][0]["cut_at"], row["dropped"]) == (20, True)


def test_a_preview_of_pairs_shows_both_answers(client: TestClient, server: Context) -> None:
    (row,) = post(client, "previews", jsonl(*[PAIR] * 12), rows=1, method={"type": "dpo"}).json()["rows"]
    assert [each["role"] for each in row["sequences"]] == ["chosen", "rejected"]


def test_an_estimate_names_the_lines_of_all_errors(client: TestClient, server: Context) -> None:
    rows = [CHAT, {"messages": []}, *[CHAT] * 8, {"messages": 3}, {"text": 1}]
    (reason,) = post(client, "estimates", jsonl(*rows)).json()["reasons"]
    assert reason["code"] == "invalid_training_file"
    assert reason["message"].startswith("Invalid file format. Example 2")
    assert reason["message"].endswith(" … and 2 more: lines 11, 12")


def test_an_invalid_row_is_shown_with_its_findings(client: TestClient, server: Context) -> None:
    rows = post(client, "previews", jsonl(CHAT, {"messages": 3}, CHAT), rows=3).json()["rows"]
    assert (rows[1]["sequences"], rows[1]["findings"][0]["line"]) == ([], 2)


def test_rows_of_a_wrong_format_are_refused_in_openais_words(client: TestClient, server: Context) -> None:
    answer = post(client, "previews", jsonl(*[PAIR] * 12))
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert message.startswith("Input file file-")  # and not that a job failed, for there is none
    assert "fine-tune-preference format" in message


def test_another_projects_file_is_not_there(app: FastAPI, client: TestClient, server: Context) -> None:
    theirs = client_of(app, "other")
    file = theirs.post("/v1/files", files={"file": ("r", jsonl(CHAT))}, data={"purpose": "fine-tune"}).json()["id"]
    for what in ("previews", "estimates"):
        answer = client.post(f"/v1/fine_tuning/{what}", json={"model": "tiny", "training_file": file})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "file_not_found")


def test_an_estimate_counts_rows_tokens_steps_weights_memory_and_seconds(
    client: TestClient, server: Context, worker: None
) -> None:
    hyperparameters = {"n_epochs": 2, "batch_size": 4}
    method = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
    found = post(client, "estimates", jsonl(*[CHAT] * 12), method=method).json()
    assert (found["allowed"], found["reasons"]) == (True, [])
    assert (found["train"]["rows"], found["total_steps"]) == (12, 6)
    assert found["trained_tokens"] == 2 * found["train"]["tokens"]
    assert found["trained_parameters"] > 0
    assert found["parameters_exact"]
    assert found["memory"]["total"] == sum(value for name, value in found["memory"].items() if name != "total")
    assert found["seconds"] > 0


def test_a_job_too_large_for_every_worker_is_not_allowed(client: TestClient, server: Context) -> None:
    with server.database.write() as session:
        workers.register(session, owner="w", stage=Stage.TRAIN, memory_bytes=64 << 20)
    found = post(client, "estimates", jsonl(*[CHAT] * 12)).json()
    assert (found["allowed"], [each["code"] for each in found["reasons"]]) == (False, ["does_not_fit"])


def test_an_estimate_says_everything_that_is_in_the_way(client: TestClient, server: Context, worker: None) -> None:
    found = post(client, "estimates", jsonl(*[CHAT] * 3), resources={"gpus": 1}).json()
    assert {each["code"] for each in found["reasons"]} == {"no_gpu", "invalid_n_examples"}


def test_an_estimate_blames_the_context_if_it_is_the_limit(client: TestClient, server: Context, worker: None) -> None:
    long = {"prompt": "2 + 2 " * 200, "completion": "four"}
    found = post(client, "estimates", jsonl(*[long] * 12), training={"max_length": 4096}).json()
    (reason,) = found["reasons"]
    assert reason["code"] == "no_rows_left"
    assert "The base model's context is 128 tokens: shorten the rows" in reason["message"]
    assert any("training.max_length is 4,096" in warning for warning in found["warnings"])


def test_a_supervised_estimate_warns_of_labels(client: TestClient, server: Context, worker: None) -> None:
    rows = [{"text": f"text {n}", "label": str(n % 2)} for n in range(12)]
    found = post(client, "estimates", jsonl(*rows)).json()
    assert [each.partition(",")[0] for each in found["warnings"]][-1] == "These rows have labels"


def test_four_bits_that_no_worker_here_could_hold_are_not_allowed(
    client: TestClient, server: Context, worker: None
) -> None:
    found = post(client, "estimates", jsonl(*[CHAT] * 12), technique={"type": "qlora"}).json()
    (reason,) = found["reasons"]
    assert (found["allowed"], reason["param"]) == (False, "technique")
    assert "multiple of 64" in reason["message"]


def test_rows_that_cannot_be_trained_on_are_a_reason(client: TestClient, server: Context, worker: None) -> None:
    found = post(client, "estimates", jsonl(*[PAIR] * 12)).json()
    assert (found["allowed"], found["reasons"][0]["code"]) == (False, "invalid_training_file")


REFUSED: dict[str, dict[str, Any]] = {
    "technique on a continued adapter": {"technique": {"type": "lora", "rank": 9}},
    "reward model that is none": {"method": {"type": "ppo", "ppo": {"reward_model": "ft:none"}}},
    "merged prefix": {"model": "tiny", "technique": {"type": "prefix"}, "export": {"merged": True}},
    "prefix as long as the window": {"model": "tiny", "technique": {"type": "prefix", "tokens": 127}},
    "recomputed prefix": {
        "model": "tiny",
        "technique": {"type": "prefix"},
        "training": {"gradient_checkpointing": True},
    },
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_an_estimate_refuses_what_a_create_refuses_in_the_same_words(
    client: TestClient, server: Context, worker: None, body: dict[str, Any]
) -> None:
    parent = a_model(server, a_project(server.database), technique={"type": "lora", "rank": 4})
    created = post(client, "jobs", jsonl(*[CHAT] * 12), **{"model": parent} | body)
    error = created.json()["error"]
    (reason,) = post(client, "estimates", jsonl(*[CHAT] * 12), **{"model": parent} | body).json()["reasons"]
    assert (created.status_code, reason["code"], reason["message"]) == (400, error["code"], error["message"])
    assert reason["param"] == error["param"]


def test_a_recipe_is_checked_before_there_are_files(client: TestClient, server: Context) -> None:
    body = {"model": "tiny", "training_file": "file-to-come"}
    missing = client.post("/v1/fine_tuning/estimates", json=body).json()["error"]
    assert (missing["code"], missing["param"]) == ("file_not_found", "training_file")
    for path, refused in (("estimates", ["cannot_merge"]), ("previews", "file_not_found")):
        answer = client.post(f"/v1/fine_tuning/{path}", json=body | REFUSED["merged prefix"]).json()
        said = answer["error"]["code"] if path == "previews" else [each["code"] for each in answer["reasons"]]
        assert said == refused


def test_a_file_of_another_purpose_is_refused_by_the_estimate_too(client: TestClient, server: Context) -> None:
    file = a_file(server, a_project(server.database), purpose="fine-tune-results")
    found = client.post("/v1/fine_tuning/estimates", json={"model": "tiny", "training_file": file}).json()
    assert [each["code"] for each in found["reasons"]] == ["invalid_file_purpose"]


def test_what_goes_on_from_a_model_is_previewed_and_estimated_as_its_technique(
    client: TestClient, server: Context, worker: None
) -> None:
    parent = a_model(server, a_project(server.database), technique={"type": "lora", "rank": 4})
    content = jsonl(*[CHAT] * 12)
    assert len(post(client, "previews", content, model=parent, rows=2).json()["rows"]) == 2
    found = post(client, "estimates", content, model=parent).json()
    as_new = post(client, "estimates", content, technique={"type": "lora", "rank": 4}).json()
    assert (found["allowed"], found["model"]) == (True, parent)
    assert found["trained_parameters"] == as_new["trained_parameters"]


def test_above_two_thousand_rows_a_sample_is_counted(client: TestClient, server: Context, worker: None) -> None:
    content = jsonl(*[{"text": f"row {number:05d}"} for number in range(9000)])
    train = post(client, "estimates", content).json()["train"]
    assert train["rows"] == 9000
    assert train["sampled_rows"] < 4500
    assert train["tokens"] == 9000 * train["longest"]
    width, longest = train["lengths"]["width"], train["longest"]
    assert train["lengths"]["rows"] == [0] * (longest // width) + [9000]


def test_the_same_question_is_answered_from_memory(client: TestClient, server: Context) -> None:
    def refuse(folder: Path) -> None:
        raise AssertionError("asked again")

    child = PreviewProcesses(server.settings)
    child._reports["key"] = json.dumps({"error": None})
    assert child.preview("key", {}, refuse)["error"] is None


def test_the_child_sees_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("ATTUNE_DATABASE_URL", "postgresql://secret")
    assert "secret" not in json.dumps(child_environment())


@pytest.mark.parametrize(
    ("technique", "param"),
    [
        ({"type": "lora", "target_modules": ["q_proj", "W_pack"]}, "technique.target_modules"),
        ({"type": "lora", "target_modules": ["lm_head"]}, "technique.target_modules"),
        ({"type": "ia3", "target_modules": ["embed_tokens"]}, "technique.target_modules"),
        ({"type": "dora", "alpha_pattern": {"W_pack": 4}}, "technique.alpha_pattern"),
    ],
)
def test_layers_that_cannot_be_adapted_are_refused_by_an_estimate_as_by_a_job(
    technique: dict[str, Any], param: str, client: TestClient, server: Context
) -> None:
    """Before any row is read, and with the words that the layers' names are looked up by."""
    (reason,) = post(client, "estimates", jsonl(*[CHAT] * 12), technique=technique).json()["reasons"]
    refused = post(client, "jobs", jsonl(*[CHAT] * 12), technique=technique)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("no_such_layer", param)
    assert reason == {name: error[name] for name in ("code", "message", "param")}


def test_experts_that_are_left_out_are_said_by_an_estimate_and_by_the_jobs_events(
    client: TestClient, server: Context
) -> None:
    with server.database.write() as session:
        base = records.get(session, "tiny")
        assert base is not None
        shapes = base.facts["shapes"]
        layers = shapes["layers"] | {
            "model.layers.{}.mlp.gate": ["router", 32, 4, 2, 1, 1],
            "model.layers.{}.mlp.experts.w": ["apart", 32, 48, 2, 4, 2],
        }
        base.facts = base.facts | {"shapes": shapes | {"layers": layers}}
    waiting, _, told = post(client, "estimates", jsonl(*[CHAT] * 12)).json()["warnings"]
    assert waiting.startswith("The job would wait: no live worker prepares files")
    assert told == "'lora' leaves out experts.w, mlp.gate (12,544 weights of experts and routers)"
    job = post(client, "jobs", jsonl(*[CHAT] * 12)).json()
    events = client.get(f"/v1/fine_tuning/jobs/{job['id']}/events").json()["data"]
    assert [event["message"] for event in events if event["level"] == "warn"] == [told]
    with server.database.write() as session:
        for stage in Stage:
            workers.register(session, owner=f"w:{stage}", stage=stage)
    object.__setattr__(server, "queue_board", Latest(0.0))
    named = {"technique": {"type": "lora", "target_modules": ["q_proj"]}}
    assert post(client, "estimates", jsonl(*[CHAT] * 12), **named).json()["warnings"] == []


@pytest.mark.parametrize("stored", [None, b"damaged"])
def test_an_estimate_reads_the_rows_if_the_prepared_arrays_are_lost(
    client: TestClient, server: Context, worker: None, stored: bytes | None
) -> None:
    project, content = a_project(server.database), jsonl(*[CHAT] * 12)
    body = {"model": "tiny", "training_file": a_file(server, project, content)}
    with server.database.write() as session:
        base = records.get(session, "tiny")
        assert base is not None
        key = arrays.content_key(project, [hashlib.sha256(content).hexdigest()], Recipe.model_validate(body), base)
        report = {"rows": 12, "findings": []}
        arrays.upsert(session, key=key, project_id=project, bytes_total=7, sha256="0" * 64, report=report)
    if stored is not None:
        server.storage.write_bytes(arrays.storage_key(project, key), stored)
    found = client.post("/v1/fine_tuning/estimates", json=body).json()
    assert (found["allowed"], found["train"]["rows"]) == (True, 12)


def test_an_estimate_lists_each_limit_that_would_refuse_the_job(server: Context) -> None:
    none_allowed = server.settings.model_copy(update={"max_active_jobs": 0, "max_daily_jobs": 0})
    client = client_of(create_app(none_allowed), "default")
    budgets.set_budget(server, "default", trained_tokens=0)
    limits = ["insufficient_quota", "too_many_active_jobs", "too_many_daily_jobs"]
    found = post(client, "estimates", jsonl(*[CHAT] * 12)).json()
    assert (found["allowed"], [reason["code"] for reason in found["reasons"]]) == (False, limits)
    created = post(client, "jobs", jsonl(*[CHAT] * 12))
    assert (created.status_code, created.json()["error"]["code"]) == (429, limits[0])


def test_no_more_of_a_file_is_fetched_than_the_limit_allows(server: Context) -> None:
    project = a_project(server.database)
    caller, file = Caller(project, "key_1", "read"), a_file(server, project, b"PAR1" + bytes(100))
    small = replace(server, settings=server.settings.model_copy(update={"preview_file_bytes": 100}))
    recipe = Recipe(model="tiny", training_file=file)
    with pytest.raises(previews.ParquetTooLarge, match="104 bytes"):
        previews.preview(small, caller, recipe, rows=1)
    with server.database.write() as session:
        base, stored = records.get(session, "tiny"), files.get(session, project, file)
        assert base is not None
        assert stored is not None
        key = arrays.content_key(project, [stored.sha256], recipe, base)
        session.add(Arrays(key=key, project_id=project, bytes=101, sha256="", report={}, created_at=db_now()))
    prepared = [previews.resolve_query(context, caller, recipe).prepared.keys() for context in (server, small)]
    assert prepared == [{"train"}, set()]


def test_without_pyarrow_a_preview_of_parquet_is_refused_and_the_file_is_not_blamed(
    server: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previews, "find_spec", lambda name: None)
    client = client_of(create_app(server.settings), "default")
    for what in ("previews", "estimates"):
        refused = post(client, what, b"PAR1" + bytes(100))
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["param"]) == (400, "no_parquet_reader", "training_file")
