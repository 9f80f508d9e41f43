"""Trainings of every technique with every method: `python -m benchmarks.gpu.pairs [--only dpo]`.

The published files are compared with the trained model. `--only`: the pairs whose name contains this.
"""

import io
import sys
import tempfile
import time
import traceback
from contextlib import redirect_stdout
from pathlib import Path
from shutil import copytree, rmtree

import numpy as np
import torch

from benchmarks.gpu.parts import device, options_of
from tests.tiny_models import make_encoder, make_model
from tests.worker import pairs

WIDE = ("qlora",)
"""Techniques that quantize rows of 64 values and therefore need a wider model."""


def main() -> None:
    options = options_of(__doc__, "only")
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(not check_pairs(Path(folder), device(), options.only))


def check_pairs(folder: Path, device: torch.device, only: str) -> bool:
    """Print the outcome of each pair. Return whether none failed."""
    good = True
    bases = {
        "causal_lm": make_model(folder / "llama", "llama", seed=0),
        "encoder": make_encoder(folder / "bert", "bert"),
    }
    wide = {
        "causal_lm": make_model(folder / "llama_wide", "llama_wide", seed=0),
        "encoder": make_encoder(folder / "bert_wide", "bert_wide"),
    }
    judge = _judge(folder, bases["causal_lm"], device)
    print("technique   method          kind       before   after  (loss, or reward)   seconds")
    for pair in pairs.LEGAL:
        if only not in f"{pair.technique} {pair.method}":
            continue
        base = (wide if pair.technique in WIDE else bases)[pair.kind]
        run, started = folder / "pair", time.perf_counter()
        label = f"{pair.technique:11} {pair.method:15} {pair.kind:9}"
        try:
            pairs.make(run, base, pair.technique, pair.method, seed=3, judge=judge)
            with redirect_stdout(io.StringIO()):
                trained = pairs.train(run, device=device)
            print(f"{label} {_outcome(trained)} {time.perf_counter() - started:9.1f}", flush=True)
        except Exception as error:  # the other pairs are measured all the same
            traceback.print_exc()
            print(f"{label} FAILED: {type(error).__name__}: {error}", flush=True)
            good = False
        rmtree(run, ignore_errors=True)
    return good


def _outcome(trained: pairs.Trained) -> str:
    if trained.reward_before is not None and trained.reward_after is not None:
        before, after = trained.reward_before, trained.reward_after
        improved = after > before
    else:
        losses = [metrics["train_loss"] for metrics in trained.metrics]
        before, after = losses[0], float(np.mean(losses[-3:]))
        improved = after < 0.7 * before
    frozen = trained.frozen_before == trained.frozen_after
    outcome = f"{before:8.3f} {after:8.3f}  {'improved' if improved else 'NOT IMPROVED'}"
    return f"{outcome:33}" if frozen else f"{outcome}, FROZEN WEIGHTS CHANGED"


def _judge(folder: Path, base: Path, device: torch.device) -> Path:
    run = folder / "judge"
    pairs.make(run, base, "lora", "reward", seed=1, steps=5)
    pairs.train(run, device=device)
    published = run / "out" / "model"
    copytree(base, published / "base")
    return published


if __name__ == "__main__":
    main()
