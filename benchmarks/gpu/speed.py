"""The speed and memory of a training step of a model with 1.2 billion weights."""

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.gpu.rows import random_rows, recipe_for
from worker.engine.loop import Loop
from worker.engine.model.load import load_trainable
from worker.engine.optimizer import adamw
from worker.engine.training_state import Progress
from worker.methods import METHODS, MethodContext

ROUNDS = 5


def measure_speed(folder: Path, device: torch.device, *, small: bool) -> None:
    """Print tokens per second and peak memory for each technique and micro-batch size."""
    size: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2} if small else {}
    config = LlamaConfig(
        **{"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16} | size,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=512 if small else 128_256,
        tie_word_embeddings=True,
    )
    base = folder / "large"
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(base)
    lengths = [16] * 4 if small else [int(length) for length in np.linspace(64, 2048, 32)]
    rows = random_rows(lengths, 500)
    variants = [(technique, budget) for technique in ("lora", "full") for budget in (4096, 16_384)]
    print(f"\n{len(rows)} rows, {sum(lengths)} tokens a step\ntechnique  micro-batch  tokens/s  peak GiB")
    for technique, budget in variants:
        recipe = recipe_for(technique, rows, "bfloat16", budget)
        model = load_trainable(base, recipe, device)
        objective = METHODS["supervised"](MethodContext(recipe, base, model, print))
        progress, seconds = Progress(micro_batch_tokens=budget), []
        loop = Loop(recipe, model, objective, adamw(model.masters, recipe), rows, progress, print)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(ROUNDS + 1):
            started = time.perf_counter()
            loop.step()
            seconds.append(time.perf_counter() - started)
        peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")
        rate = sum(lengths) / statistics.median(seconds[1:])
        print(f"{technique:9}  {budget:11}  {rate:8.0f}  {peak:8.1f}", flush=True)
        model.release()
        del model, objective, loop
