"""Prompts, a grader, and the answers that a method of ours has sampled, as an oracle needs them."""

import json
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from tokenizers import Tokenizer

from api.spec.graders import Grader, grade
from tests.worker.parity import ours
from worker.shared.arrays import Items, Rows

GRADER = {
    "type": "multi",
    "name": "letters in order",
    "graders": {
        "likeness": {
            "type": "text_similarity",
            "name": "likeness",
            "input": "{{sample.output_text}}",
            "reference": "{{item.letters}}",
            "evaluation_metric": "fuzzy_match",
        }
    },
    "calculate_output": "ceil(64 * likeness) / 64",
}
"""Its rewards, and their mean over a group of eight, are exact in float32. In a group whose rewards hardly differ,
dividing by their deviation would turn the last bit of TRL's mean into an error of 1e-6."""
ITEM = {"letters": string.ascii_letters + string.digits}
END = 258
"""The token with which the tiny model's answers end."""


def prompts(seed: int, count: int) -> Rows:
    rng = np.random.default_rng(seed)
    drawn = [ours.drawn(rng, 1, 8) for _ in range(count)]
    item = json.dumps(ITEM).encode()
    items = Items(np.frombuffer(item * count, np.uint8), np.arange(count + 1) * len(item))
    return replace(ours.rows_of([(tokens, [0.0] * len(tokens)) for tokens in drawn]), items=items)


def answers(rows: Rows) -> list[tuple[list[int], list[int]]]:
    """(prompt, answer) of each row that was sampled."""
    found = []
    for tokens_T, weights_T in rows:
        prompt = int((weights_T == 0).sum())
        found.append((tokens_T[:prompt].tolist(), tokens_T[prompt:].tolist()))
    return found


def reward(base: Path, answer: list[int]) -> float:
    text = Tokenizer.from_file(str(base / "tokenizer.json")).decode(answer, skip_special_tokens=True)
    grader: Any = TypeAdapter(Grader).validate_python(GRADER)
    return grade(grader, text, ITEM).reward
