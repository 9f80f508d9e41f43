"""Tokens per second of sampled answers, now and at an earlier commit, in turn on the same machine:
`python -m benchmarks.rollouts [--against COMMIT] [--rounds 5] [--precision float32]`.

Each side is a process that loads the model once and samples when it is asked. Reported are medians over the rounds, in
elapsed and in processor seconds (the latter differ less on a busy machine), and the answers' mean log-probability under
the policy, which agrees within its standard error if both sides sample from the same distribution.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from api.spec.recipe import Recipe
from api.spec.resolve import resolve
from tests import smollm2
from worker.engine.generation.rollout_objective import RolloutObjective
from worker.engine.generation.rollout_sampler import token_values
from worker.engine.model.load import load_trainable
from worker.methods import METHODS, MethodContext
from worker.shared.arrays import Rows, rows_of

ROOT = Path(__file__).parents[1]
BEFORE = "b4a6fb4"
"""The last commit that sampled with transformers' `generate`, in batches of a micro-batch's tokens."""
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
REQUESTS = ("Write one sentence about {}.", "What is {}?", "Why do people like {}?", "Write a short poem about {}.")
TOPICS = ("the sea", "an old red house", "tea", "a dog that barks at night", "rust", "a late train", "winter", "maps")
GRADER = {"type": "string_check", "name": "g", "operation": "eq", "input": "{{sample.output_text}}", "reference": "a"}
GROUP = 8
MICRO_BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Sampled:
    """A process's report of sampling once."""

    seconds: float
    processor_seconds: float
    tokens: int
    logprob: float
    """Mean log-probability of the sampled tokens, in nats."""
    logprob_error: float
    """Standard error of `logprob`, over the answers."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", default=BEFORE, help="the commit to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=["ppo", "reinforcement"])
    parser.add_argument("--technique", default="lora")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--answers", type=int, default=64, help=f"of one call; in groups of {GROUP} for reinforcement")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--base", type=Path, help="default: SmolLM2-135M-Instruct, as in the tests")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.base = options.base or smollm2.folder()
    if options.serve:
        return serve(options)
    print(f"{options.answers} answers of at most {options.max_tokens} tokens, {options.technique}, {options.precision}")
    print(f"{torch.get_num_threads()} threads, {options.rounds} rounds", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        before = Path(scratch) / "before"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", before, options.against], check=True, cwd=ROOT)
        try:
            for method in options.methods:
                compare(method, {options.against: before, "now": ROOT}, options)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", before], check=True, cwd=ROOT)


def compare(method: str, checkouts: dict[str, Path], options: argparse.Namespace) -> None:
    arguments = ["--serve", "--methods", method, "--technique", options.technique, "--precision", options.precision]
    arguments += ["--answers", str(options.answers), "--max-tokens", str(options.max_tokens)]
    arguments += ["--base", str(options.base)]
    sides = {
        name: subprocess.Popen(
            [sys.executable, "-P", __file__, *arguments],  # -P: imports come from the checkout alone
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(checkout)},
            cwd=checkout,
            text=True,
        )
        for name, checkout in checkouts.items()
    }
    sampled: dict[str, list[Sampled]] = {name: [] for name in sides}
    for seed, (name, side) in itertools.product(range(1, 1 + options.rounds), sides.items()):
        assert side.stdin is not None
        assert side.stdout is not None
        print(seed, file=side.stdin, flush=True)
        sampled[name].append(Sampled(**json.loads(side.stdout.readline())))
    for side in sides.values():
        side.communicate()
    rates = {name: _rates(calls) for name, calls in sampled.items()}
    for name, calls in sampled.items():
        logprob = statistics.fmean(call.logprob for call in calls)
        error = statistics.fmean(call.logprob_error**2 for call in calls) ** 0.5 / len(calls) ** 0.5
        elapsed, processor = rates[name]
        print(f"{method:13} {name:8} {elapsed:7.1f} tokens/s, {processor:7.1f} by processor time, "
              f"log-probability {logprob:.3f} ± {error:.3f}", flush=True)  # fmt: skip
    (elapsed, processor), (earlier_elapsed, earlier_processor) = rates["now"], rates[options.against]
    print(f"{method:13} {elapsed / earlier_elapsed:.2f} times as fast, "
          f"{processor / earlier_processor:.2f} times by processor time", flush=True)  # fmt: skip


def _rates(calls: list[Sampled]) -> tuple[float, float]:
    return (
        statistics.median(call.tokens / call.seconds for call in calls),
        statistics.median(call.tokens / call.processor_seconds for call in calls),
    )


def serve(options: argparse.Namespace) -> None:
    """Sample once for each line of standard input, which is a seed. This also runs with earlier commits' packages."""
    if not torch.cuda.is_available():  # as worker.engine.determinism, which earlier commits lack
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    (method,) = options.methods
    prompts = _prompts(options.base, method, options.answers)
    with tempfile.TemporaryDirectory() as folder:
        objective = _objective(Path(folder), method, options)
        objective.sample(prompts.take(np.arange(2)))  # to warm up
        for line in sys.stdin:
            torch.manual_seed(int(line))
            objective.recipe = objective.recipe.model_copy(update={"seed": int(line)})
            started, used = time.perf_counter(), time.process_time()
            answers = objective.sample(prompts)
            seconds, processor_seconds = time.perf_counter() - started, time.process_time() - used
            (logprobs_N,) = token_values(
                answers.rows, objective.batches, lambda batch: [objective.model.token_scores(batch).logprobs], 1
            )
            sums = np.add.reduceat(logprobs_N, answers.rows.starts)
            lengths = np.array([len(answer) for answer in answers.answers])
            mean = sums.sum() / lengths.sum()
            error = np.std(sums - mean * lengths) / lengths.mean() / len(lengths) ** 0.5
            values = (seconds, processor_seconds, int(lengths.sum()), float(mean), float(error))
            print(json.dumps(dict(zip((field.name for field in fields(Sampled)), values, strict=True))), flush=True)


def _objective(folder: Path, method: str, options: argparse.Namespace) -> RolloutObjective:
    (folder / "base").symlink_to(options.base)
    method_options: dict[str, object] = {"grader": GRADER, "max_tokens": options.max_tokens}
    if method == "reinforcement":
        method_options["group_size"] = GROUP
    body = {"model": "base", "training_file": "file", "technique": {"type": options.technique}}
    recipe = Recipe.model_validate(body | {"method": {"type": method, method: method_options}})
    resolved = resolve(recipe, job_id="job", seed=1, max_length=256, train_rows=options.answers, validation_rows=0)
    hardware = {
        "precision": options.precision,
        "micro_batch_tokens": MICRO_BATCH_TOKENS,
        "gradient_checkpointing": False,
    }
    resolved = resolved.model_copy(update=hardware)
    model = load_trainable(options.base, resolved, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    with torch.no_grad():
        for name, weight in model.trained.items():
            if "lora_B" in name:  # zeros at first, with which an adapter changes nothing
                weight.normal_(std=0.01)
    objective = METHODS[method](MethodContext(resolved, folder, model, lambda report: None))
    assert isinstance(objective, RolloutObjective)
    return objective


def _prompts(base: Path, method: str, answers: int) -> Rows:
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    prompts = (CHAT.format(request.format(topic)) for topic in itertools.cycle(TOPICS) for request in REQUESTS)
    group = GROUP if method == "reinforcement" else 1
    texts = [text for text in itertools.islice(prompts, answers // group) for _ in range(group)]
    return rows_of([tokenizer.encode(text, add_special_tokens=False).ids for text in texts])


if __name__ == "__main__":
    main()
