"""Tokens per second of sampled answers, of 1.2 billion random weights with LoRA: `python -m benchmarks.gpu.sampling`.

The sampling is that of `benchmarks.rollouts`, without an earlier commit.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu.bases import random_base
from benchmarks.gpu.parts import options_of

ANSWERS, TOKENS = 128, 256
SMALL_ANSWERS, SMALL_TOKENS = 8, 16
ROUNDS = 3


def main() -> None:
    small = options_of(__doc__).small
    answers, tokens = (SMALL_ANSWERS, SMALL_TOKENS) if small else (ANSWERS, TOKENS)
    print(f"{answers} answers of at most {tokens} tokens, in groups\nmethod         tokens/s  processor s")
    with tempfile.TemporaryDirectory() as folder:
        base = random_base(Path(folder) / "model", "1B", small=small)
        for method in ("ppo", "reinforcement"):
            sampler = [sys.executable, "-m", "benchmarks.rollouts", "--serve", "--methods", method, "--base", str(base)]
            sampler += ["--precision", "bfloat16", "--answers", str(answers), "--max-tokens", str(tokens)]
            seeds = "".join(f"{seed}\n" for seed in range(1, 1 + ROUNDS))
            done = subprocess.run(sampler, input=seeds, stdout=subprocess.PIPE, env=os.environ, text=True, check=True)
            calls = [json.loads(line) for line in done.stdout.splitlines()]
            rate = statistics.median(call["tokens"] / call["seconds"] for call in calls)
            processor_s = statistics.median(call["processor_seconds"] for call in calls)
            print(f"{method:13}  {rate:8.0f}  {processor_s:11.2f}", flush=True)


if __name__ == "__main__":
    main()
