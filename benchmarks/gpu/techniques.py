"""Speed and memory of a step of 1.2 billion random weights, by technique and micro-batch:
`python -m benchmarks.gpu.techniques`."""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu.bases import random_base
from benchmarks.gpu.parts import device, options_of
from benchmarks.gpu.rows import random_rows, recipe_for
from worker.engine.loop import Loop
from worker.engine.model.load import load_trainable
from worker.engine.optimizer import adamw
from worker.engine.saving.training_state import Progress
from worker.methods import METHODS, MethodContext

TECHNIQUES = ("lora", "qlora", "dora", "full")
BUDGETS = (4096, 16_384)
ROUNDS = 5


def main() -> None:
    small = options_of(__doc__).small
    with tempfile.TemporaryDirectory() as folder:
        measure(random_base(Path(folder) / "model", "1B", small=small), device(), small=small)


def measure(base: Path, device: torch.device, *, small: bool) -> None:
    """Print tokens per second and peak memory for each technique and micro-batch."""
    lengths = [16] * 4 if small else [int(length) for length in np.linspace(64, 2048, 32)]
    rows = random_rows(lengths, 500)
    variants = [(technique, budget) for technique in TECHNIQUES for budget in BUDGETS]
    print(f"{len(rows)} rows, {sum(lengths)} tokens a step\ntechnique  micro-batch  tokens/s  peak GiB")
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


if __name__ == "__main__":
    main()
