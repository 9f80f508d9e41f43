"""One definition of where an answer ends: rollouts, samples, the chat and plain `generate` on what was published."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from api.spec.sampling import SamplerJob
from tests.worker import template_bases
from tests.worker.parity import ours
from tests.worker.sampling.asking import run, serving
from worker.engine.generation.rollout_objective import RolloutObjective
from worker.engine.generation.sample_answers import greedy_answers
from worker.engine.publish.card import TrainingSummary
from worker.engine.publish.export import export
from worker.engine.publish.merge import export_merged
from worker.rows.generation_ends import EndTokens
from worker.sampling.bases import LoadedBase, ModelSource
from worker.shared.reports import FinishedReport, SamplerReport

QUESTION, END = {"role": "user", "content": "Is it?"}, "<|im_end|>"
QUICK = ("chatml", "llama_2", "plain", "phi3", "gemma", "llama3", "gptoss", "qwen3", "cohere2", "glm4moe")
TEMPLATES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.pairs) for name in template_bases.ALL]
GRADER = {"type": "string_check", "name": "g", "operation": "eq", "input": "{{sample.output_text}}", "reference": ""}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_token_that_a_template_ends_an_answer_with_stops_a_generation(name: str, tmp_path: Path) -> None:
    """Bases name another one, such as <|endoftext|>."""
    base = template_bases.base(tmp_path / "base", name, eos="<unk>")
    messages = [QUESTION, {"role": "assistant", "content": "It is so"}]
    text: Any = AutoTokenizer.from_pretrained(base).apply_chat_template(messages, tokenize=False)
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    added = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
    after = text.rpartition("It is so")[2].strip()
    first = [number for content, number in added.items() if after.startswith(content)]
    assert set(first) <= EndTokens.load(base).stops
    assert bool(first) or name in {"plain", "glm4moe"}, "nothing ends a turn there"


def test_a_token_that_stands_within_a_turn_ends_none(tmp_path: Path) -> None:
    base = template_bases.base(tmp_path / "base", "gptoss", eos="<|return|>")
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    assert EndTokens.load(base).stops == {tokenizer.token_to_id("<|return|>")}, "its reasoning ends in <|end|>"


@pytest.fixture(scope="module")
def always_ends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model of which every next token is the end of a turn, while its settings name </s>."""
    base = template_bases.base(tmp_path_factory.mktemp("ends") / "base", "chatml", weights=True)
    weights = load_file(base / "model.safetensors")
    weights["model.embed_tokens.weight"][:, 0] = 100.0
    weights["lm_head.weight"][:, 0] = 0.0
    weights["lm_head.weight"][Tokenizer.from_file(str(base / "tokenizer.json")).token_to_id(END), 0] = 100.0
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    return base


def chat(tuned: ModelSource) -> tuple[str, int]:
    """How an answer of the chat ends, and after how many tokens."""
    base = LoadedBase(tuned, torch.device("cpu"), torch.float32)
    reports: list[SamplerReport] = []
    request = SamplerJob(
        id="r", base=str(tuned.base), messages=[QUESTION], prompts=None, max_tokens=9, temperature=0, top_p=1, n=1,
        seed=None, stop=[], top_logprobs=None, adapter=None, technique=None,
    )  # fmt: skip
    server = serving(base, reports.append)
    server.submit(request)
    run(server)
    (finished,) = [report for report in reports if isinstance(report, FinishedReport)]
    return finished.reason, finished.tokens


def generated(folder: Path, adapter: Path | None = None, **options: Any) -> int:
    """Tokens that plain `generate` adds to the question."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    inputs: Any = AutoTokenizer.from_pretrained(adapter or folder).apply_chat_template(
        [QUESTION], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    found = model.generate(**inputs, max_new_tokens=9, do_sample=False, **options)
    return int(found.shape[1] - inputs["input_ids"].shape[1])


def test_rollouts_samples_and_the_chat_stop_at_the_end_of_a_turn(always_ends: Path, tmp_path: Path) -> None:
    assert chat(ModelSource(always_ends)) == ("stop", 1)
    recipe = ours.settled("reinforcement", {"grader": GRADER, "max_tokens": 9})
    objective = ours.begin(always_ends, tmp_path / "run", recipe)
    assert isinstance(objective, RolloutObjective)
    sampled = objective.sample(ours.rows_of([([5, 6, 7], [0.0] * 3)]), greedy=True)
    assert (len(sampled.answers[0]), sampled.ended.tolist(), sampled.texts) == (1, [True], [""])
    rows = ours.rows_of([([5, 6, 7, 8, 9], [0.0] * 3 + [1.0] * 2)])
    (shown,) = greedy_answers(always_ends, objective.model, rows, 64, objective.sampling_plan())
    assert shown.answer == "", "an answer that ended has no mark of a cut"


@pytest.mark.parametrize("technique", [ours.FULL, ours.LORA], ids=["full", "lora"])
def test_plain_generate_stops_on_what_was_published(technique: Any, always_ends: Path, tmp_path: Path) -> None:
    assert generated(always_ends) == 9, "the base's own settings know no better"
    objective = ours.begin(always_ends, tmp_path / "run", ours.settled("supervised", {}, technique))
    folder = tmp_path / "model"
    folder.mkdir()
    export(objective.model, folder, always_ends, objective.recipe, TrainingSummary())
    stops = sorted(EndTokens.load(always_ends).stops)
    card = (folder / "README.md").read_text()
    if technique is ours.LORA:
        assert f"eos_token_id={stops}" in card
        assert generated(always_ends, folder, eos_token_id=stops) == 1
        folder = export_merged(folder, always_ends, objective.recipe, torch.device("cpu"))
    assert json.loads((folder / "generation_config.json").read_bytes())["eos_token_id"] == stops
    assert generated(folder) == 1 == chat(ModelSource(folder))[1]


def test_an_end_that_is_no_special_token_is_no_part_of_an_answers_text(tmp_path: Path) -> None:
    base = template_bases.base(tmp_path / "base", "chatml", weights=True)
    settings = json.loads((base / "tokenizer.json").read_bytes())
    for token in settings["added_tokens"]:
        token["special"] = False
    (base / "tokenizer.json").write_text(json.dumps(settings))
    end = Tokenizer.from_file(str(base / "tokenizer.json")).token_to_id(END)
    recipe = ours.settled("reinforcement", {"grader": GRADER, "max_tokens": 9})
    objective = ours.begin(base, tmp_path / "run", recipe)
    assert isinstance(objective, RolloutObjective)
    weights: Any = objective.model.network
    with torch.no_grad():
        weights.model.embed_tokens.weight[:, 0] = 100.0
        weights.lm_head.weight[:, 0] = 0.0
        weights.lm_head.weight[end, 0] = 100.0
    sampled = objective.sample(ours.rows_of([([5, 6, 7], [0.0] * 3)]), greedy=True)
    assert (np.concatenate(sampled.answers).tolist(), sampled.texts) == ([end], [""])
