"""Time per step and memory over a long training: `python -m benchmarks.long_training [--steps 10000]`.

A tiny Llama is trained by `python -m worker.train`, with states saved in the background. The longest training reports
the time of a step and the resident memory in each tenth of its steps. Shorter trainings, from a hundredth of its tokens
on, show whether the time of a job is linear in its tokens. Times are elapsed and processor seconds; the latter depend
less on other work on the machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil

from benchmarks.training.runs import environment
from tests.tiny_models import make_model
from tests.worker.run_folders import make_run, random_rows

ROOT = Path(__file__).parents[1]
SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Lengths of the trainings, as shares of the longest one."""
PARTS = 10
EPOCHS = 40
BATCH_SIZE = 4


@dataclass(frozen=True)
class Moment:
    """The state of the trainer when it reported a step."""

    step: int
    tokens: int
    elapsed_s: float
    processor_s: float
    resident_mib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--save-every", type=int, default=500)
    options = parser.parse_args()
    jobs = []
    with tempfile.TemporaryDirectory() as folder:
        base = make_model(Path(folder) / "base", "llama")
        for share in SHARES:
            steps = round(options.steps * share)
            jobs.append(list(moments(Path(folder) / f"run-{steps}", base, steps, options.save_every)))
    print_parts(jobs[-1])
    print_line(jobs)


def moments(folder: Path, base: Path, steps: int, save_every: int) -> Iterator[Moment]:
    """Train for this number of steps. Yield the moment of each step's report."""
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": EPOCHS, "batch_size": BATCH_SIZE}}}
    training = {"max_steps": steps, "save_every": save_every}
    rows = random_rows(max(16, steps * BATCH_SIZE // EPOCHS), seed=0)
    run = make_run(folder, base, train=rows, method=method, training=training, technique={"type": "lora"})
    read_fd, write_fd = os.pipe()
    with (folder / "log.txt").open("wb") as log:
        child = psutil.Popen(
            [sys.executable, "-m", "worker.train", str(run)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[write_fd],
            cwd=ROOT,
            env={**environment(1), "ATTUNE_REPORT_FD": str(write_fd)},
        )
    os.close(write_fd)
    started, step, tokens = child.create_time(), 0, 0
    with os.fdopen(read_fd) as lines:
        for line in lines:
            report = json.loads(line)
            if report["type"] == "metrics":
                step, tokens = report["step"], tokens + report["tokens"]
                yield _moment(child, started, step, tokens)
    if child.wait() != 0:
        sys.exit((folder / "log.txt").read_text(errors="replace"))


def _moment(child: psutil.Process, started: float, step: int, tokens: int) -> Moment:
    times = child.cpu_times()
    elapsed_s = time.time() - started
    return Moment(step, tokens, elapsed_s, times.user + times.system, child.memory_info().rss / 2**20)


def print_parts(found: list[Moment]) -> None:
    """Print the time of a step, and the memory at the end, of each part of a training."""
    print("| steps | elapsed, ms a step | processor, ms a step | resident memory, MiB |")
    print("|---|---|---|---|")
    for begin, end in pairwise(np.linspace(0, len(found) - 1, PARTS + 1).astype(int)):
        first, last = found[begin], found[end]
        steps = last.step - first.step
        elapsed_ms = 1000 * (last.elapsed_s - first.elapsed_s) / steps
        processor_ms = 1000 * (last.processor_s - first.processor_s) / steps
        print(f"| to {last.step} | {elapsed_ms:.2f} | {processor_ms:.2f} | {last.resident_mib:.0f} |")


def print_line(jobs: list[list[Moment]]) -> None:
    """Print the whole time of each job, and how well a line in the tokens fits it."""
    ends = [found[-1] for found in jobs]
    tokens = np.array([end.tokens for end in ends], dtype=float)
    for name in ("elapsed_s", "processor_s"):
        times = np.array([getattr(end, name) for end in ends])
        fitted = np.polyval(np.polyfit(tokens, times, 1), tokens)
        unexplained = ((times - fitted) ** 2).sum() / ((times - times.mean()) ** 2).sum()
        listed = ", ".join(f"{count:.0f}: {time:.1f}" for count, time in zip(tokens, times, strict=True))
        print(f"{name} by tokens: {listed}; R² {1 - unexplained:.5f}")


if __name__ == "__main__":
    main()
