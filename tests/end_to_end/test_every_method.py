"""Each method and each technique by one request: rows as users write them, to a downloaded model."""

import json
from typing import Any

import pytest
from openai import OpenAI

from api.services import base_models
from api.settings import Settings
from tests.conftest import opened
from tests.end_to_end.jobs import adapter_files, client_of, ended, messages, upload
from tests.services import AttuneUp
from tests.tiny_models import make_encoder, make_model
from worker.convert import convert

ROWS = 12
SAID = {"role": "user", "content": "Say something."}
GRADER = {
    "type": "text_similarity",
    "name": "close",
    "evaluation_metric": "fuzzy_match",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}


def _answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _preference(row: int) -> dict[str, Any]:
    return {
        "input": {"messages": [SAID | {"content": f"Say {row}."}]},
        "preferred_output": [_answer(f"yes {row}")],
        "non_preferred_output": [_answer(f"no {row}")],
    }


FILES: dict[str, Any] = {
    "chat": lambda row: {"messages": [SAID, _answer(f"yes {row}")]},
    "preference": _preference,
    "unpaired": lambda row: {"prompt": "Say it.", "completion": f"yes {row}", "label": row % 2 == 0},
    "labelled": lambda row: {"text": f"number {row}", "label": "even" if row % 2 == 0 else "odd"},
    "prompts": lambda row: {"messages": [SAID], "answer": f"yes {row}"},
}
METHODS = {
    "supervised": ("chat", {}),
    "dpo": ("preference", {}),
    "kto": ("unpaired", {}),
    "orpo": ("preference", {}),
    "simpo": ("preference", {}),
    "reward": ("preference", {}),
    "classification": ("labelled", {}),
    "ppo": ("prompts", {"grader": GRADER, "max_tokens": 6}),
    "reinforcement": ("prompts", {"grader": GRADER, "max_tokens": 6, "group_size": 2}),
}
ADAPTERS = ("lora", "dora", "qlora", "prefix", "prompt", "ia3")


@pytest.fixture(scope="module")
def client(live_server: AttuneUp, tmp_path_factory: pytest.TempPathFactory) -> OpenAI:
    """A client of a server with more base models: the encoder `tiny-bert`, and `tiny-wide`."""
    folder = tmp_path_factory.mktemp("bases")
    made = {"tiny-bert": make_encoder(folder / "bert"), "tiny-wide": make_model(folder / "wide", "llama_wide")}
    with opened(Settings(data_dir=live_server.data)) as context:
        for name, model in made.items():
            convert(str(model), folder / name)
            base_models.register(context, name, folder / name)
    return client_of(live_server)


@pytest.fixture(scope="module")
def files(client: OpenAI) -> dict[str, str]:
    return {
        name: upload(client, "".join(json.dumps(row(number)) + "\n" for number in range(ROWS)).encode())
        for name, row in FILES.items()
    }


def run(client: OpenAI, files: dict[str, str], method: str, **body: Any) -> Any:
    rows, options = METHODS[method]
    hyperparameters = {"n_epochs": 1, "batch_size": 6}
    job = client.fine_tuning.jobs.create(
        model=body.pop("model", "tiny"),
        training_file=files[rows],
        extra_body={
            "method": {"type": method, method: options | {"hyperparameters": hyperparameters}},
            "training": {"max_steps": 2, "precision": "float32"},
        }
        | body,
    )
    job = ended(client, job.id)
    assert job.status == "succeeded", job.error
    return job


@pytest.mark.parametrize("method", METHODS)
def test_each_method_trains_a_language_model(method: str, client: OpenAI, files: dict[str, str]) -> None:
    job = run(client, files, method)
    events = [event.data for event in client.fine_tuning.jobs.list_events(job.id, limit=100) if event.type == "metrics"]
    assert sorted(data["step"] for data in events) == [1, 2]  # type: ignore[index]
    assert "adapter_config.json" in adapter_files(client, job.id)


ALWAYS = ("bottleneck", "qlora")
"""The others run under `make pairs`: how each trains and is published is tried there without the service anyway."""


@pytest.mark.parametrize(
    "technique",
    [
        pytest.param(each, marks=[] if each in ALWAYS else [pytest.mark.pairs])
        for each in ("full", "bottleneck", *ADAPTERS)
    ],
)
def test_each_technique_trains_by_one_field(technique: str, client: OpenAI, files: dict[str, str]) -> None:
    model = "tiny-wide" if technique == "qlora" else "tiny"
    job = run(client, files, "supervised", technique={"type": technique}, model=model)
    found = adapter_files(client, job.id)
    weights = {"full": "model.safetensors", "bottleneck": "adapter.safetensors"}
    assert weights.get(technique, "adapter_model.safetensors") in found
    assert f"- {technique}" in found["README.md"].decode() or f'"{technique}"' in found["README.md"].decode()


def test_an_encoder_learns_labels_and_nothing_else(client: OpenAI, files: dict[str, str]) -> None:
    job = run(client, files, "classification", model="tiny-bert")
    assert "The job has successfully completed" in messages(client, job.id)
    assert "odd" in adapter_files(client, job.id)["README.md"].decode()
    with pytest.raises(Exception, match="classification"):
        run(client, files, "supervised", model="tiny-bert")
