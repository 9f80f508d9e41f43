"""Pictures of every view, in both themes and two sizes, in build/screenshots.

    make screenshots ARGS="NAME …"

A new Attune trains small jobs first, so that each view has something to show. NAME selects pictures, such as `jobs`.
"""

import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from openai import OpenAI
from playwright.sync_api import Browser

from api.dashboard import VIEWS
from tests.browser.chromium import Visitor, chromium
from tests.end_to_end.jobs import client_of, create, ended, step_of, upload, wait_until
from tests.receiver import receiving
from tests.services import AttuneUp
from tests.tiny_models import make_encoder, make_model

FOLDER = Path("build/screenshots")
SIZES = {"desktop": {"width": 1440, "height": 900}, "phone": {"width": 390, "height": 844}}
THEMES = ("light", "dark")
CITIES = ("Paris", "Rome", "Lima", "Oslo", "Cairo", "Delhi", "Tokyo", "Quito", "Accra", "Sofia")
BROKEN = b'{"messages": [{"role": "user", "content": "Where is Rome?"}]}\n{"messages": []}\nno JSON\n' * 4


def main(names: list[str], folder: Path = FOLDER) -> None:
    with tempfile.TemporaryDirectory(prefix="attune-") as scratch, receiving() as receiver:
        server = AttuneUp(Path(scratch), env={"ATTUNE_WEBHOOK_PRIVATE_HOSTS": "127.0.0.1"})
        server.add_model("tiny", make_model(Path(scratch) / "tiny", family="llama"))
        server.add_model("encoder", make_encoder(Path(scratch) / "encoder"))
        server.start()
        try:
            all_addresses = prepare(client_of(server), receiver.url)
            addresses = {name: path for name, path in all_addresses.items() if name in names or not names}
            with chromium() as browser:
                shutil.rmtree(folder, ignore_errors=True)
                take_all(browser, server, addresses, folder)
        finally:
            server.stop()


def prepare(client: OpenAI, hook_url: str) -> dict[str, str]:
    """Give each view something to show. Return the addresses by the name of their picture."""
    hook = {"name": "deployment", "url": hook_url, "event_types": ["fine_tuning.job.succeeded"]}
    webhook: Any = client.post("/webhook_endpoints", body=hook, cast_to=object)
    train, held_out = upload(client, chats(60)), upload(client, chats(12, seed=1))
    broken, pairs = upload(client, BROKEN), upload(client, preferences(24))
    good = create(client, train, steps=200, validation_file=held_out, suffix="atlas", metadata={"team": "maps"})
    faster: dict[str, Any] = {"training": {"learning_rate": 0.001}, "technique": {"type": "dora"}}
    other = create(client, train, steps=200, validation_file=held_out, suffix="atlas-dora", **faster)
    failed = create(client, broken, steps=6)
    stages = [
        {"name": "learn", "training_file": train, "method": {"type": "supervised"}},
        {"name": "prefer", "training_file": pairs, "method": {"type": "dpo"}},
        {"name": "judge", "training_file": pairs, "model": "tiny", "method": {"type": "reward"}},
    ]
    pipeline: Any = client.post(
        "/fine_tuning/pipelines", body={"model": "tiny", "suffix": "assist", "stages": stages}, cast_to=object
    )
    classifier = classified(client)
    for job_id in (good, other, failed, classifier):
        ended(client, job_id)
    batch, (eval_id, *runs) = a_batch(client), graded(client)
    running = create(client, upload(client, chats(800, seed=2)), steps=100_000, validation_file=held_out, suffix="long")
    wait_until(lambda: step_of(client, running) > 80)
    waiting = create(client, train, steps=10, suffix="next")
    paths = {
        "job": f"/jobs/{good}?smoothing=0.6",
        "job-running": f"/jobs/{running}",
        "job-waiting": f"/jobs/{waiting}",
        "job-failed": f"/jobs/{failed}",
        "job-classifier": f"/jobs/{classifier}",
        "compare": f"/compare?jobs={good},{other},{running}",
        "pipeline": f"/pipelines/{pipeline['id']}",
        "file": f"/files/{train}",
        "file-broken": f"/files/{broken}",
        "new-filled": f"/new?file={pairs}",
        "new-clone": f"/new?from={good}",
        "batch": f"/batches/{batch}",
        "webhook": f"/webhooks/{webhook['id']}",
        "eval": f"/evals/{eval_id}?run={runs[0]}",
        "eval-compared": f"/evals/{eval_id}?run={runs[0]}&with={runs[1]}",
        "model": f"/models/{client.fine_tuning.jobs.retrieve(good).fine_tuned_model}",
        "docs": "/docs",
        "docs-entry": "/docs/troubleshooting#out_of_memory",
    }
    return {view.name: f"/{view.name}" for view in VIEWS} | paths


def classified(client: OpenAI) -> str:
    """Train a classifier of sentences about cities."""
    rng = random.Random(0)
    sides = {city: ("north", "south", "east")[n % 3] for n, city in enumerate(CITIES)}
    named = ({"text": f"I live in {city}.", "label": sides[city]} for city in rng.choices(CITIES, k=120))
    method = {"type": "classification", "classification": {"hyperparameters": {"n_epochs": 8, "batch_size": 8}}}
    options = {"technique": {"type": "full"}, "training": {"learning_rate": 0.002, "validation_split": 0.25}}
    body: Any = {"method": method} | options
    file = upload(client, _lines(named))
    return client.fine_tuning.jobs.create(model="encoder", training_file=file, suffix="sides", extra_body=body).id


def a_batch(client: OpenAI) -> str:
    """Let a batch be answered, and another one fail at its file."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Where is Rome?"}], "max_tokens": 12}
    bodies = [*([body] * 7), body | {"temperature": 9}]
    shared = {"method": "POST", "url": "/v1/chat/completions"}
    good = _lines({"custom_id": f"question-{n}", "body": each, **shared} for n, each in enumerate(bodies))
    made = []
    for content in (good, BROKEN):
        file = client.files.create(file=("questions.jsonl", content), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        made.append(batch.id)
    wait_until(lambda: client.batches.retrieve(made[0]).status == "completed")
    return made[0]


def graded(client: OpenAI) -> list[str]:
    """Run an eval twice: over answers that are right now and then, and over those of a model. Return the ids."""
    similar = {"type": "text_similarity", "name": "similar", "evaluation_metric": "fuzzy_match", "pass_threshold": 0.6}
    template = {"input": "{{ sample.output_text }}", "reference": "{{ item.answer }}"}
    evaluation: Any = client.evals.create(
        name="Where cities are",
        data_source_config={"type": "custom", "item_schema": {"type": "object"}, "include_sample_schema": True},
        testing_criteria=[{"type": "string_check", "name": "exact", "operation": "eq", **template}, similar | template],  # type: ignore[list-item]
    )
    items = [{"question": f"Where is {city}?", "answer": f"It is on page {n}."} for n, city in enumerate(CITIES)]
    answers = [{"item": item, "sample": {"output_text": f"It is on page {n % 4}."}} for n, item in enumerate(items)]
    ask = {"type": "template", "template": [{"role": "user", "content": "{{ item.question }}"}]}
    sources: list[Any] = [
        {"type": "jsonl", "source": {"type": "file_content", "content": answers}},
        {
            "type": "completions", "model": "tiny", "input_messages": ask,
            "source": {"type": "file_content", "content": [{"item": item} for item in items]},
            "sampling_params": {"max_completion_tokens": 12},
        },
    ]  # fmt: skip
    runs = [client.evals.runs.create(evaluation.id, data_source=source).id for source in sources]
    wait_until(
        lambda: all(client.evals.runs.retrieve(each, eval_id=evaluation.id).status == "completed" for each in runs)
    )
    return [evaluation.id, *runs]


def chats(count: int, seed: int = 0) -> bytes:
    rng = random.Random(seed)
    return _lines(
        {
            "messages": [
                {"role": "user", "content": f"Where is {rng.choice(CITIES)}?"},
                {"role": "assistant", "content": f"It is on page {rng.randint(1, 9)}."},
            ]
        }
        for _ in range(count)
    )


def preferences(count: int) -> bytes:
    return _lines(
        {"prompt": f"Where is {CITIES[number % 10]}?", "chosen": "It is on page 4.", "rejected": "I do not know."}
        for number in range(count)
    )


def _lines(rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def take_all(browser: Browser, server: AttuneUp, addresses: dict[str, str], folder: Path) -> None:
    for size, viewport in SIZES.items():
        for theme in THEMES:
            visitor = Visitor(browser, server.base_url, color_scheme=theme)
            visitor.page.set_viewport_size(viewport)  # type: ignore[arg-type]
            visitor.page.goto("/")
            visitor.page.wait_for_selector("form.sign-in")
            visitor.page.screenshot(path=folder / f"sign-in-{size}-{theme}.png")
            visitor.sign_in(server.api_key)
            for name, address in addresses.items():
                visitor.page.goto(address)
                visitor.page.wait_for_timeout(1500)  # a running job's page is never idle
                visitor.page.screenshot(path=folder / f"{name}-{size}-{theme}.png", full_page=True)
            for fault in visitor.faults:
                print(f"{size}, {theme}: {fault}", file=sys.stderr)
            visitor.context.close()


if __name__ == "__main__":
    main(sys.argv[1:])
