"""lm-eval's tasks on a tuned model: through the API, and by lm-eval's own `hf` on the published files."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer

from tests.end_to_end.clients.environments import python_with_lm_eval
from tests.end_to_end.jobs import adapter_files, client_of, create, ended, rows, upload
from tests.services import AttuneUp
from worker.shared.hardware import cpu_multiplies_bfloat16

TASKS: dict[str, dict[str, Any]] = {
    "choose": {
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc"}],
    },
    "continue": {
        "output_type": "generate_until",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}
FACTS: list[dict[str, Any]] = [
    {"question": "The sky is", "choices": [" blue", " green"]},
    {"question": "Two plus two is", "choices": [" four", " five"]},
    {"question": "Ice is frozen", "choices": [" water", " sand"]},
]

ROUNDING = 5e-2
"""Of a text's log-probability: bfloat16 rounds each of its logits to 0.4 %."""


@pytest.mark.clients
@pytest.mark.timeout(1200)  # the first run installs it
def test_log_likelihoods_answers_and_accuracy_are_those_of_its_own_hf(
    live_server: AttuneUp, tiny_base: Path, tmp_path: Path
) -> None:
    client = client_of(live_server)
    job_id = create(client, upload(client, rows(12)), steps=12, training={"learning_rate": 0.05})
    model = ended(client, job_id).fine_tuned_model
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name, content in adapter_files(client, job_id).items():
        (adapter / name).write_bytes(content)
    write_tasks(tmp_path / "tasks")
    api = f"model={model},base_url={live_server.base_url}/completions,tokenizer={tiny_base},max_length=120"
    dtype = "bfloat16" if cpu_multiplies_bfloat16() else "float32"
    tokenizer = tokenizer_of_size(tiny_base, tmp_path / "tokenizer")
    files = f"pretrained={tiny_base},peft={adapter},tokenizer={tokenizer},dtype={dtype},max_length=120"
    files += ",softmax_dtype=float32"  # else it rounds log-probabilities to quarters
    through_api = run(tmp_path, live_server, "local-completions", api)
    direct = run(tmp_path, live_server, "hf", files, "--device", "cpu")
    assert through_api.answers["continue"] == direct.answers["continue"]
    for found, expected in zip(through_api.answers["choose"], direct.answers["choose"], strict=True):
        assert [float(logprob) for logprob, _ in found] == pytest.approx(
            [float(logprob) for logprob, _ in expected], abs=ROUNDING
        )
    assert through_api.accuracy == direct.accuracy


def tokenizer_of_size(base: Path, folder: Path) -> Path:
    """Write the base's tokenizer with as many tokens as the model has, and return its folder.

    Beside an adapter, lm-eval's `hf` removes the rows of the embeddings that no token uses, which would raise every
    probability. The added tokens occur in no text.
    """
    tokenizer = AutoTokenizer.from_pretrained(base)
    missing = AutoConfig.from_pretrained(base).vocab_size - len(tokenizer)
    tokenizer.add_tokens([f"<unused {number}>" for number in range(missing)])
    tokenizer.save_pretrained(folder)
    return folder


def write_tasks(folder: Path) -> None:
    folder.mkdir()
    (folder / "facts.jsonl").write_text("".join(json.dumps(fact) + "\n" for fact in FACTS))
    for name, task in TASKS.items():
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "facts.jsonl")}}}
        whole = {"task": name, "test_split": "test", "doc_to_text": "{{question}}"} | data | task
        (folder / f"{name}.yaml").write_text(json.dumps(whole))  # JSON is YAML


@dataclass(frozen=True)
class Figures:
    answers: dict[str, list[Any]]
    """The answers to each task, in the order of its rows."""
    accuracy: float
    """Of the task `choose`."""


def run(folder: Path, server: AttuneUp, kind: str, arguments: str, *others: str) -> Figures:
    command = [python_with_lm_eval(), "-m", "lm_eval", "run", "--model", kind, "--model_args", arguments]
    command += ["--include_path", folder / "tasks", "--output_path", folder / kind, "--log_samples"]
    command += ["--tasks", ",".join(TASKS), *others]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"OPENAI_API_KEY": server.api_key, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    answers = {}
    for name in TASKS:
        (file,) = (folder / kind).rglob(f"samples_{name}_*.jsonl")
        samples = sorted(map(json.loads, file.read_text().splitlines()), key=lambda sample: sample["doc_id"])
        answers[name] = [
            sample["resps"] if name == "continue" else [r[0] for r in sample["resps"]] for sample in samples
        ]
    (results,) = (folder / kind).rglob("results_*.json")
    return Figures(answers, json.loads(results.read_text())["results"]["choose"]["acc,none"])
