"""Answers of a language model: SmolLM2, or SmolLM2 with a published adapter."""

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

from api.estimate.machine_fields import resolve_hardware_auto
from benchmarks.relations.rows import Row
from benchmarks.relations.runs import fill_run_folder
from worker.engine.generation.rollout_sampler import RolloutSampler
from worker.engine.model.load import load_trainable
from worker.engine.objective import MethodContext, Objective
from worker.rows.generation_ends import EndTokens
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
"""The method that prompts are prepared for; its grader is never called."""


@dataclass(frozen=True)
class Answers:
    texts: list[str]
    kl: float
    """Nats per answer: the mean of log π(y | x) - log π_base(y | x) over answers y that are sampled from π."""
    tokens: float
    """Mean tokens per answer."""


def sample_answers(
    scratch: Path,
    base: Path,
    technique: dict[str, Any],
    prompts: Sequence[Row],
    *,
    adapter: Path | None,
    max_tokens: int,
    seed: int,
) -> Answers:
    """Return one answer to each prompt, sampled at temperature 1 by the engine's own sampler."""
    shutil.rmtree(scratch, ignore_errors=True)
    recipe = fill_run_folder(
        scratch, base, prompts, prompts[:1], seed=seed, method=PROMPTS_METHOD, technique=technique, training={}
    )
    recipe = resolve_hardware_auto(recipe, json.loads((base / "attune.json").read_bytes()), machine_for(None))
    rows = load_rows(scratch / "data" / "train.safetensors")
    model = load_trainable(base, recipe, torch.device("cpu"), start=adapter)
    ends = EndTokens.load(base).stops
    sampler = RolloutSampler(model, Tokenizer.from_file(str(base / "tokenizer.json")), ends, pad_token=min(ends))
    reader = _Reader(MethodContext(recipe, scratch, model, print))
    plan = reader.sampling_plan()
    samples = sampler.sample(rows, max_tokens=max_tokens, temperature=1.0, plan=plan, seed=(seed,))
    kl = 0.0
    if adapter is not None:
        logprobs_R_1 = reader.sequence_logprobs(samples.rows)
        with model.model.disable_adapter():
            kl = float((logprobs_R_1 - reader.sequence_logprobs(samples.rows)).mean())
    del model, sampler
    gc.collect()
    shutil.rmtree(scratch)
    return Answers(samples.texts, kl, float(np.mean([len(answer) for answer in samples.answers])))


class _Reader(Objective):
    """An objective that only computes log-probabilities."""
