"""Reward models at work in a training."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from api.spec.graders import GraderBase
from api.spec.graders.python import Python
from api.spec.graders.score_model import ScoreModel
from api.spec.graders.text_similarity import TextSimilarity
from api.spec.techniques import Full
from tests.tiny_models import make_encoder, make_tokenizer
from tests.worker import pairs
from tests.worker.parity import ours
from worker.engine.errors import TrainingError
from worker.engine.generation import rewards
from worker.engine.generation.rewards import RewardFunction, RewardModel
from worker.engine.generation.rollout_sampler import Answers
from worker.shared.arrays import Items, rows_of

INPUT = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "{{ sample.output_text }}"}]


@pytest.fixture
def alive() -> list[None]:
    """The judge's signs of life."""
    return []


@pytest.fixture
def judge(tiny_llama: Path, tmp_path: Path, alive: list[None]) -> RewardFunction:
    """By a score_model grader, which asks a whole reward model of 128 tokens."""
    folder = tmp_path / "judges" / "0"
    AutoModelForSequenceClassification.from_pretrained(tiny_llama, num_labels=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folder)
    (tmp_path / "judges.json").write_text(json.dumps({"ft:j": {"folder": "judges/0", "technique": {"type": "full"}}}))
    grader = ScoreModel.model_validate({"type": "score_model", "name": "s", "model": "ft:j", "input": INPUT})
    return by(grader, tmp_path, alive)


def by(grader: GraderBase, run: Path, alive: list[None]) -> RewardFunction:
    cpu, recipe = torch.device("cpu"), ours.settled("supervised", {})
    return RewardFunction(run, recipe, cpu, reward_model=None, grader=grader, keep_alive=lambda: alive.append(None))


def said(*texts: str) -> tuple[Answers, Any]:
    """Answers as far as a grader reads them, and their prompts."""
    prompts = ours.rows_of([([1, 2], [0.0, 0.0])] * len(texts))
    items = Items(np.frombuffer(b"{}" * len(texts), np.uint8), np.arange(0, 2 * len(texts) + 1, 2))
    prompts = replace(prompts, items=items)
    nothing: list[Any] = [np.zeros(0, np.int32)] * len(texts)
    return Answers(prompts, nothing, nothing, [], list(texts), np.ones(len(texts), bool)), prompts


def test_an_answer_that_the_judge_cannot_read_to_its_end_gets_no_reward_and_ends_no_job(judge: RewardFunction) -> None:
    rewards = judge(*said("four", "four " * 40, "five"), 64)
    assert (rewards[1], math.isfinite(rewards[0]), rewards[0] != rewards[2]) == (0.0, True, True)
    (error,) = judge.grading_errors
    assert "context length is 128" in error


def test_a_judge_asked_for_less_at_once_says_the_same(judge: RewardFunction, alive: list[None]) -> None:
    asked = said("four", "five", "six and seven")
    assert judge(*asked, 4096).tolist() == pytest.approx(judge(*asked, 16).tolist(), abs=1e-5)
    assert len(alive) == 1 + 3, "a sign of life before each batch"


def test_a_judge_whose_positions_depend_on_the_longest_answer_says_the_same_of_each(tmp_path: Path) -> None:
    config = AutoConfig.for_model(
        "phi3", vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, original_max_position_embeddings=16, pad_token_id=0, num_labels=1,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 16, "factor": 8.0,
            "short_factor": [1.0] * 4, "long_factor": [7.0] * 4,
        },
    )  # fmt: skip
    torch.manual_seed(2)
    model = AutoModelForSequenceClassification.from_config(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(tmp_path)
    make_tokenizer(tmp_path)
    judge = RewardModel(tmp_path, Full(), ours.settled("supervised", {}), torch.device("cpu"))
    rng = np.random.default_rng(2)
    rows = ours.rows_of([(ours.drawn(rng, length, length), [0.0] * length) for length in (9, 12, 40)])
    expected = [float(model.eval()(torch.tensor(tokens_T[None].astype(int))).logits) for tokens_T, _ in rows]
    assert judge.score(rows, 4096).tolist() == pytest.approx(expected, abs=1e-5)


def by_script(folder: Path, source: str) -> RewardFunction:
    return by(Python.model_validate({"type": "python", "source": source}), folder, [])


def test_a_script_that_fails_on_an_answer_gives_it_no_reward_and_ends_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewards, "MAX_GRADING_ERRORS", 2)
    judge = by_script(tmp_path, "def grade(sample, item): return 1 / int(sample['output_text'])")
    assert judge(*said("4", "four", "0", "five", "six"), 64).tolist() == [0.25, 0, 0, 0, 0]
    assert len(judge.grading_errors) == 2
    assert "line 1: ZeroDivisionError: division by zero" in judge.grading_errors


def test_a_script_that_cannot_run_ends_the_job_before_it_trains(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"source: line 1: .*`numpy`"):
        by_script(tmp_path, "import numpy\ndef grade(sample, item): return 1")


def test_answers_are_compared_by_the_embedding_model_in_the_run_folder(tmp_path: Path, alive: list[None]) -> None:
    (tmp_path / "embedding_model").symlink_to(make_encoder(tmp_path / "encoder"))
    texts = {"input": "{{ sample.output_text }}", "reference": "the same"}
    grader = TextSimilarity.model_validate(
        {"type": "text_similarity", "name": "s", "evaluation_metric": "cosine", **texts}
    )
    same, other = by(grader, tmp_path, alive)(*said("the same", "another"), 64).tolist()
    assert len(alive) == 2, "a sign of life before each text"
    assert same == pytest.approx(1)
    assert 0 <= other < 1


def test_a_reward_model_counts_its_virtual_tokens_in_the_context(bases: dict[str, Path], tmp_path: Path) -> None:
    """Beyond 128 positions GPT-2 has no embedding."""
    recipe = pairs.make(tmp_path / "run", bases["gpt2"], "prompt", "reward", seed=3, steps=1)
    pairs.train(tmp_path / "run")
    folder = tmp_path / "run" / "out" / "model"
    shutil.copytree(bases["gpt2"], folder / "base")
    model = RewardModel(folder, recipe.technique, recipe, torch.device("cpu"))
    with pytest.raises(TrainingError, match="has 121 tokens, and the reward model's context length is 120"):
        model.score(rows_of([[5] * 121]), 256)
    assert len(model.score(rows_of([[5] * 120]), 256)) == 1
