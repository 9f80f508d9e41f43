"""A language model that answers: SmolLM2 as it is, or with an adapter that a job published."""

import gc
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from api.estimate.machine import resolve_hardware_auto
from benchmarks.relations.rows import Row
from benchmarks.relations.runs import fill
from worker.engine.generation.sampler import RolloutSampler
from worker.engine.model.load import load_trainable
from worker.engine.objective import MethodContext, Objective
from worker.rows.end_tokens import EndTokens
from worker.shared.arrays import load_rows
from worker.shared.hardware import machine_for

PROMPTS_METHOD = {
    "type": "reinforcement",
    "reinforcement": {
        "grader": {
            "type": "string_check",
            "name": "unused",
            "operation": "eq",
            "input": "{{sample.output_text}}",
            "reference": "",
        }
    },
}
"""Only for prepare, which makes rows for a method."""


@dataclass(frozen=True)
class Answered:
    texts: list[str]
    kl: float
    """Nats per answer: the mean of log π(y | x) - log π_base(y | x) over the answers, which π itself drew."""
    tokens: float
    """Per answer."""


def answers(
    scratch: Path,
    base: Path,
    technique: dict[str, Any],
    prompts: Sequence[Row],
    *,
    adapter: Path | None,
    max_tokens: int,
    seed: int,
) -> Answered:
    """One answer to each prompt, drawn at temperature 1 by the engine's own sampler."""
    shutil.rmtree(scratch, ignore_errors=True)
    recipe = fill(
        scratch, base, prompts, prompts[:1], seed=seed, method=PROMPTS_METHOD, technique=technique, training={}
    )
    recipe = resolve_hardware_auto(recipe, json.loads((base / "attune.json").read_bytes()), machine_for(None))
    rows = load_rows(scratch / "data" / "train.safetensors")
    model = load_trainable(base, recipe, torch.device("cpu"), start=adapter)
    ends = EndTokens.load(base).stops
    sampler = RolloutSampler(model, Tokenizer.from_file(str(base / "tokenizer.json")), ends, pad_token=min(ends))
    torch.manual_seed(seed)
    found = sampler.sample(rows, max_tokens=max_tokens, temperature=1.0, budget_tokens=2048, greedy=False)
    kl = 0.0
    if adapter is not None:
        reader = _Reader(MethodContext(recipe, scratch, model, print))
        now_R_1 = reader.answer_logprobs(found.rows)
        with model.model.disable_adapter():
            kl = float((now_R_1 - reader.answer_logprobs(found.rows)).mean())
    del model, sampler
    gc.collect()
    shutil.rmtree(scratch)
    return Answered(found.texts, kl, float(np.mean([len(each) for each in found.answers])))


class _Reader(Objective):
    """Only to read log-probabilities."""
