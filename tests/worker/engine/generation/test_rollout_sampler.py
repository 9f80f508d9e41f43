"""Sampling answers in a training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from api.estimate.sampling import SamplingPlan
from api.estimate.work import PACKED_FAMILIES
from tests.tiny_models import make_model
from tests.worker.parity import ours
from worker.engine.generation.rollout_sampler import RolloutSampler, token_values
from worker.engine.model.batches import Layout, MicroBatch, micro_batches
from worker.engine.model.head import Scoring
from worker.engine.model.trainable import TrainableModel
from worker.shared.arrays import Rows

ONE_BY_ONE = SamplingPlan(budget_tokens=16, cache_tokens=1, merges=False)
TOGETHER = SamplingPlan(budget_tokens=64, cache_tokens=10_000, merges=True)
TECHNIQUES: list[dict[str, Any]] = [
    {"type": "lora", "rank": 4},
    {"type": "bottleneck"},
    {"type": "prompt", "tokens": 5},
    {"type": "prefix", "tokens": 5},
]
OFTEN_ENDS = set(range(100, 130))


def sampler_of(base: Path, model: TrainableModel, end_tokens: set[int]) -> RolloutSampler:
    return RolloutSampler(model, Tokenizer.from_file(str(base / "tokenizer.json")), end_tokens, pad_token=0)


def prompts_of(seed: int, *lengths: int) -> Rows:
    rng = np.random.default_rng(seed)
    return ours.rows_of([(ours.drawn(rng, length, length), [0.0] * length) for length in lengths])


def test_a_long_answer_is_told_of_at_every_token(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    """Or the supervisor would take a trainer that samples thousands of tokens for hung."""
    model = ours.begin(tiny_llama, tmp_path / "run", ours.settled("supervised", {})).model
    ticks = []
    model.keep_alive = lambda: ticks.append(1)
    answers = sampler_of(tiny_llama, model, set()).sample(
        prompts_of(seed, 8), max_tokens=20, temperature=0.0, plan=TOGETHER
    )
    assert len(answers.answers[0]) == 20
    assert len(ticks) >= 20


def test_an_answer_that_never_leaves_its_reasoning_has_no_content(tiny_llama: Path, tmp_path: Path) -> None:
    model = ours.begin(tiny_llama, tmp_path / "run", ours.settled("supervised", {})).model
    sampler = sampler_of(tiny_llama, model, set())
    tokenizer = Tokenizer.from_file(str(tiny_llama / "tokenizer.json"))
    prompts = [tokenizer.encode(text, add_special_tokens=False).ids for text in ("Why?", "Why?<think>\n")]
    rows = ours.rows_of([(prompt, [0.0] * len(prompt)) for prompt in prompts])
    answers = sampler.sample(rows, max_tokens=8, temperature=0.0, plan=TOGETHER)
    assert all(answers.texts)
    assert answers.contents == [answers.texts[0], ""]


@pytest.mark.parametrize(
    ("family", "technique"),
    [
        *((family, technique) for family in ("llama", "mistral", "qwen2") for technique in TECHNIQUES),
        *((family, TECHNIQUES[0]) for family in sorted(PACKED_FAMILIES - {"llama", "mistral", "qwen2"})),
        ("falcon_h1", TECHNIQUES[0]),
    ],
    ids=lambda each: each if isinstance(each, str) else str(each["type"]),
)
def test_every_answer_is_that_of_the_policy_that_learns_from_it(
    family: str, technique: dict[str, Any], tmp_path: Path, seed: int
) -> None:
    """Whatever prompts it was sampled beside: to its own path in training, each token is the likeliest."""
    base = make_model(tmp_path / "base", family, seed)
    objective = ours.begin(base, tmp_path / "run", ours.settled("supervised", {}, technique))
    model = objective.model
    torch.manual_seed(seed)
    ours.change_weights(objective, 0.2)
    answers = sampler_of(base, model, set()).sample(
        prompts_of(seed, 30, 3, 9, 14, 9), max_tokens=12, temperature=0.0, plan=TOGETHER
    )
    (likeliest,) = token_values(answers.rows, objective.batches, lambda batch: [model.token_scores(batch).correct], 1)
    assert likeliest[answers.rows.loss_weights > 0].all()


@pytest.mark.parametrize("family", ["llama", "gemma2", "mixtral"])
def test_a_seed_gives_the_same_answers_however_they_are_batched(family: str, tmp_path: Path, seed: int) -> None:
    """Some end early and leave their batch, and several have the same prompt. mixtral is padded."""
    base = make_model(tmp_path / "base", family, seed)
    objective = ours.begin(base, tmp_path / "run", ours.settled("supervised", {}, TECHNIQUES[0]))
    ours.change_weights(objective, 0.2)
    sampler = sampler_of(base, objective.model, OFTEN_ENDS)
    prompts = prompts_of(seed, 9, 3, 14, 9).take(np.repeat(np.arange(4), 4))
    options: dict[str, Any] = {"max_tokens": 16, "temperature": 0.9, "seed": (seed, 1)}
    together = sampler.sample(prompts, plan=TOGETHER, **options)
    alone = sampler.sample(prompts, plan=ONE_BY_ONE, **options)
    assert [each.tolist() for each in together.answers] == [each.tolist() for each in alone.answers]
    assert len({len(each) for each in together.answers}) > 2
    assert len({each.tobytes() for each in together.answers}) > len(prompts) / 2


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda each: str(each["type"]))
def test_answers_have_the_distribution_of_the_policy(
    technique: dict[str, Any], tiny_llama: Path, tmp_path: Path, seed: int
) -> None:
    """The mean log-probability of what is sampled is the negative entropy, both as the training computes them."""
    objective = ours.begin(tiny_llama, tmp_path / "run", ours.settled("supervised", {}, technique, 4096))
    torch.manual_seed(seed)
    ours.change_weights(objective, 0.2)
    prompts = prompts_of(seed, 9, 4).take(np.repeat(np.arange(2), 500))
    answers = sampler_of(tiny_llama, objective.model, OFTEN_ENDS).sample(
        prompts, max_tokens=6, temperature=0.7, plan=TOGETHER, seed=(seed,)
    )
    scoring = Scoring(temperature=0.7, entropies=True)

    def logprobs_and_entropies(batch: MicroBatch) -> list[torch.Tensor]:
        scores = objective.model.token_scores(batch, scoring)
        return [scores.logprobs, scores.entropies]

    logprobs, entropies = token_values(answers.rows, objective.batches, logprobs_and_entropies, 2)
    differences = (logprobs + entropies)[answers.rows.loss_weights > 0]
    assert len(differences) > 3000
    assert abs(differences.mean()) < 5 * differences.std() / len(differences) ** 0.5


def test_another_step_gives_other_answers(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    model = ours.begin(tiny_llama, tmp_path / "run", ours.settled("supervised", {})).model
    sampler, prompts = sampler_of(tiny_llama, model, set()), prompts_of(seed, 5)
    options: dict[str, Any] = {"max_tokens": 16, "temperature": 1.0, "plan": TOGETHER}
    (first,), (second,) = (sampler.sample(prompts, seed=(seed, step), **options).answers for step in (1, 2))
    assert first.tolist() != second.tolist()


def test_the_prompt_of_a_group_is_computed_once(tiny_llama: Path, tmp_path: Path) -> None:
    model = ours.begin(tiny_llama, tmp_path / "run", ours.settled("supervised", {})).model
    computed: list[tuple[int, ...]] = []
    model.network.base_model.register_forward_pre_hook(
        lambda module, args, options: computed.append(tuple(options["input_ids"].shape)), with_kwargs=True
    )
    prompts = prompts_of(1, 5, 9).take(np.repeat(np.arange(2), 8))
    sampler_of(tiny_llama, model, set()).sample(prompts, max_tokens=3, temperature=1.0, plan=TOGETHER)
    assert computed == [(1, 14), (16, 1), (16, 1)]


def test_what_is_said_of_a_token_stays_its_own_beyond_what_float32_counts_to() -> None:
    count, length = (1 << 24) + 9, 8
    ends = np.array([length, count])
    rows = Rows(np.zeros(count, np.int32), np.ones(count, np.float32), ends - length, ends)
    rows.tokens[-length:] = np.arange(1, length + 1)
    layout, device = Layout(packed=True, single_row=False, pad_token=None), torch.device("cpu")
    (found,) = token_values(
        rows, lambda placed: micro_batches(placed, 64, layout, device), lambda batch: [batch.targets.float()], 1
    )
    assert found[-length:].tolist() == [0, *range(2, length + 1)]  # nothing is said of a first token
