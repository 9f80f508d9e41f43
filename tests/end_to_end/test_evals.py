"""Evals through the unmodified client, on a real sampler."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from api.services import base_models
from api.settings import Settings
from tests.conftest import opened
from tests.end_to_end.jobs import wait_until
from tests.end_to_end.test_sampling import HELLO, strict
from tests.services import AttuneUp

ITEM_SCHEMA: dict[str, Any] = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
CRITERIA: list[Any] = [
    {
        "type": "string_check",
        "name": "contained",
        "operation": "like",
        "input": "{{ sample.output_text }}",
        "reference": "{{ item.word }}",
    },
    {
        "type": "python",
        "name": "a text",
        "source": "def grade(sample, item):\n    return len(sample['output_text']) >= 0",
    },
]
SAMPLED: Any = {
    "type": "completions",
    "model": "tiny",
    "input_messages": {"type": "template", "template": HELLO},
    "sampling_params": {"max_completion_tokens": 4, "temperature": 0},
}


def content(*words: str) -> dict[str, Any]:
    return {"type": "file_content", "content": [{"item": {"word": word}} for word in words]}


def ended(client: OpenAI, eval_id: str, run_id: str) -> Any:
    runs = client.evals.runs
    wait_until(lambda: runs.retrieve(run_id, eval_id=eval_id).status not in ("queued", "in_progress"))
    return runs.retrieve(run_id, eval_id=eval_id)


def test_every_method_of_the_client(live_server: AttuneUp) -> None:
    client = strict(live_server)
    source: Any = {"type": "custom", "item_schema": ITEM_SCHEMA, "include_sample_schema": True}
    made = client.evals.create(data_source_config=source, testing_criteria=CRITERIA, name="first")
    renamed = client.evals.update(made.id, name="words", metadata={"team": "a"})
    assert renamed.to_dict() == client.evals.retrieve(made.id).to_dict()
    assert renamed.name == "words"
    assert made.id in [each.id for each in client.evals.list(order="desc", order_by="updated_at")]

    answer = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=4, temperature=0)
    expected = answer.choices[0].message.content
    runs = client.evals.runs
    begun = runs.create(made.id, name="run", data_source=SAMPLED | {"source": content("", "no such text")})
    run = ended(client, made.id, begun.id)
    assert (run.status, run.result_counts.passed, run.result_counts.failed) == ("completed", 1, 1)
    assert [(each.testing_criteria, each.passed) for each in run.per_testing_criteria_results] == [
        ("contained", 1),
        ("a text", 2),
    ]
    assert run.per_model_usage[0].run_model_name == "tiny"
    (failed,) = runs.output_items.list(run.id, eval_id=made.id, status="fail")
    shown = runs.output_items.retrieve(failed.id, eval_id=made.id, run_id=run.id)
    assert failed.to_dict() == shown.to_dict()
    assert failed.sample.output[0].content == expected
    assert [each.id for each in runs.list(made.id, status="completed")] == [run.id]

    many = runs.create(made.id, name="many", data_source=SAMPLED | {"source": content(*["a"] * 200)})
    assert runs.cancel(many.id, eval_id=made.id).status == "canceled"
    assert runs.delete(many.id, eval_id=made.id).run_id == many.id
    assert client.evals.delete(made.id).deleted
    assert made.id not in [each.id for each in client.evals.list()]


@pytest.fixture
def judge(live_server: AttuneUp, tiny_base: Path, tmp_path: Path) -> Iterator[str]:
    """The name of a base model like `tiny`, whose context has room for a judge's question and answer."""
    folder = tmp_path / "roomy"
    shutil.copytree(tiny_base, folder)
    for file, window in (("config.json", "max_position_embeddings"), (base_models.FACTS_FILE, "context_window")):
        content = json.loads((folder / file).read_bytes())
        (folder / file).write_text(json.dumps(content | {window: 4096}))
    with opened(Settings(data_dir=live_server.data)) as context:
        base_models.register(context, "roomy", folder)
        yield "roomy"
        base_models.remove(context, "roomy")


def test_a_model_of_the_server_scores_and_labels(live_server: AttuneUp, judge: str) -> None:
    client = strict(live_server)
    question = {"model": judge, "input": [{"role": "user", "content": "Rate {{ sample.output_text }}"}]}
    labels = ["good", "bad"]
    criteria: list[Any] = [
        {"type": "score_model", "name": "scored", "range": [2, 4], "pass_threshold": 2, **question},
        {"type": "label_model", "name": "labeled", "labels": labels, "passing_labels": labels, **question},
    ]
    source: Any = {"type": "custom", "item_schema": ITEM_SCHEMA, "include_sample_schema": True}
    made = client.evals.create(data_source_config=source, testing_criteria=criteria)
    answered: Any = {"type": "file_content", "content": [{"item": {"word": "a"}, "sample": {"output_text": "a"}}]}
    begun = client.evals.runs.create(made.id, name="run", data_source={"type": "jsonl", "source": answered})
    run = ended(client, made.id, begun.id)
    (item,) = client.evals.runs.output_items.list(run.id, eval_id=made.id)
    assert item.status == "pass", item.results
    scored, labeled = item.results
    assert (2 <= scored.score <= 4, labeled.score) == (True, 1)
    assert [(each.run_model_name, each.invocation_count) for each in run.per_model_usage] == [(judge, 2)]
    client.evals.delete(made.id)
