"""Sample answers to the data's rows: whether the adapter is merged for them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.worker.parity import ours
from worker.engine import objective as objective_module
from worker.engine.generation.sample_answers import GeneratedAnswer, greedy_answers

ROWS = ours.rows_of([([5, 6, 7, 8, 9], [0.0] * 3 + [1.0] * 2)])


@pytest.mark.parametrize(
    ("technique", "max_tokens", "merges"),
    [("lora", 8, False), ("lora", 16, True), ("dora", 8, True)],
)
def test_short_answers_are_sampled_without_merging(
    technique: str, max_tokens: int, merges: bool, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DoRA computes whole matrices in each pass, so merging is sooner there even for one token."""
    plans = []

    def recording(*arguments: Any, **options: Any) -> list[GeneratedAnswer]:
        plans.append(arguments[-1])
        return greedy_answers(*arguments, **options)

    monkeypatch.setattr(objective_module, "greedy_answers", recording)
    recipe = ours.settled("supervised", {}, {"type": technique, "rank": 4}, budget_tokens=2048)
    objective = ours.begin(tiny_llama, tmp_path / "run", recipe)
    assert objective.sampling_plan().merges, "there is memory for it"
    (answer,) = objective.sample_answers(ROWS, max_tokens)
    (plan,) = plans
    assert plan.merges == merges
    whole = greedy_answers(tiny_llama, objective.model, ROWS, max_tokens, replace(plan, merges=not merges))
    assert [answer] == whole, "the same answer either way"


def test_prompts_that_fill_the_context_window_are_not_answered(bases: dict[str, Path], tmp_path: Path) -> None:
    """GPT-2 has no embedding of a position beyond its window, here 128 tokens. A GPU would stop at such a position."""
    objective = ours.begin(bases["gpt2"], tmp_path / "run", ours.settled("supervised", {}, budget_tokens=256))
    rows = ours.rows_of([ours.answering([5] * 120, [6] * 8), ours.answering([7] * 60, [8] * 3)])
    (shown,) = objective.sample_answers(rows, 64)
    assert shown.prompt == objective.sample_answers(rows.take(np.array([1])), 64)[0].prompt
