"""Seconds per optimizer step of the trainer: `python -m benchmarks.step_time [BASE_FOLDER] [--rows 16 …]`.

Rows are random tokens of one length, or of lengths spread evenly around it (`--spread`); the second half of each row is
supervised.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from api.spec.recipe import Recipe
from api.spec.resolve import resolve
from tests import smollm2
from worker.engine.determinism import use_deterministic_algorithms
from worker.engine.loop import Loop
from worker.engine.model.load import load_trainable
from worker.engine.optimizer import adamw
from worker.engine.saving.training_state import Progress
from worker.methods import METHODS, MethodContext
from worker.shared.arrays import Rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path, nargs="?", help="default: SmolLM2-135M-Instruct, as in the tests")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--spread", type=float, default=0.0, help="0.5: lengths from 0.5 to 1.5 times --tokens")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--technique", nargs="+", default=["lora"])
    parser.add_argument("--micro-batch-tokens", type=int, nargs="+", default=[2048])
    parser.add_argument("--recompute", action="store_true")
    options = parser.parse_args()
    use_deterministic_algorithms()
    options.base = options.base or smollm2.folder()
    print(f"{options.rows} rows of {options.tokens} tokens ± {options.spread:.0%}, {torch.get_num_threads()} threads")
    for technique in options.technique:
        for precision in options.precision:
            for budget in options.micro_batch_tokens:
                seconds = step_seconds(options, technique, precision, budget)
                print(f"{technique:5} {precision:9} micro-batch {budget:6}: {seconds:.2f} s", flush=True)


def step_seconds(options: argparse.Namespace, technique: str, precision: str, budget: int) -> float:
    """Return the median time of a step, without the first step."""
    half = int(options.spread * options.tokens)
    lengths = np.linspace(options.tokens - half, options.tokens + half, options.rows).astype(int)
    ends = np.cumsum(lengths)
    tokens = np.random.default_rng(0).integers(0, 1000, ends[-1]).astype(np.int32)
    weights = np.concatenate([np.arange(length) >= length // 2 for length in lengths]).astype(np.float32)
    rows = Rows(tokens, weights, ends - lengths, ends)
    body = {
        "model": "base",
        "training_file": "file-x",
        "technique": {"type": technique},
        "method": {
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": options.steps, "batch_size": options.rows}},
        },
    }
    counts = {"max_length": int(lengths.max()), "train_rows": options.rows, "validation_rows": 0}
    recipe = resolve(Recipe.model_validate(body), job_id="benchmark", seed=1, **counts).model_copy(
        update={"precision": precision, "micro_batch_tokens": budget, "gradient_checkpointing": options.recompute}
    )
    model = load_trainable(options.base, recipe, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    objective = METHODS["supervised"](MethodContext(recipe, options.base, model, print))
    progress = Progress(micro_batch_tokens=budget)
    loop = Loop(recipe, model, objective, adamw(model.masters, recipe), rows, progress, print)
    seconds = []
    for _ in range(options.steps):
        started = time.perf_counter()
        loop.step()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    main()
