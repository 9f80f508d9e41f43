"""lm-eval's tasks on a tuned model: through the API, and with transformers and peft on the published files."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.end_to_end.clients.environments import lm_eval
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


@pytest.mark.clients
@pytest.mark.timeout(1200)  # the first run installs it
def test_the_figures_are_those_of_transformers(live_server: AttuneUp, tiny_base: Path, tmp_path: Path) -> None:
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
    files = f"pretrained={tiny_base},peft={adapter},dtype={dtype},max_length=120"
    through_api = run(tmp_path, live_server, "local-completions", api)
    direct = run(tmp_path, live_server, "hf", files, "--device", "cpu")
    assert through_api["continue"] == direct["continue"]
    wanted = directly(tiny_base, adapter, getattr(torch, dtype))
    for found, expected in zip(through_api["choose"], wanted, strict=True):
        assert [float(logprob) for logprob, _ in found] == pytest.approx(expected, abs=1e-2)


def directly(base: Path, adapter: Path, dtype: torch.dtype) -> list[list[float]]:
    """The log-probability of each choice after its question, with transformers and peft.

    lm-eval's own `hf` removes the rows of this model's embeddings that no token uses, and so raises every probability.
    """
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), adapter).eval()

    def logprob(question: str, choice: str) -> float:
        start, tokens = len(tokenizer.encode(question)), tokenizer.encode(f"{question} {choice}")
        with torch.no_grad():
            logprobs_TV = model(torch.tensor([tokens])).logits[0].float().log_softmax(-1)
        return sum(float(logprobs_TV[at - 1, tokens[at]]) for at in range(start, len(tokens)))

    return [[logprob(fact["question"], choice) for choice in fact["choices"]] for fact in FACTS]


def write_tasks(folder: Path) -> None:
    folder.mkdir()
    (folder / "facts.jsonl").write_text("".join(json.dumps(fact) + "\n" for fact in FACTS))
    for name, task in TASKS.items():
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "facts.jsonl")}}}
        whole = {"task": name, "test_split": "test", "doc_to_text": "{{question}}"} | data | task
        (folder / f"{name}.yaml").write_text(json.dumps(whole))  # JSON is YAML


def run(folder: Path, server: AttuneUp, kind: str, arguments: str, *others: str) -> dict[str, list[Any]]:
    """The answers to each task, in the order of its rows."""
    command = [lm_eval(), "run", "--model", kind, "--model_args", arguments, "--tasks", ",".join(TASKS), *others]
    command += ["--include_path", folder / "tasks", "--output_path", folder / kind, "--log_samples"]
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
    return answers
