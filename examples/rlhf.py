"""RLHF as one request: supervised fine-tuning, a reward model and PPO, as three linked jobs on a language model.

    python examples/rlhf.py [--seed N] [--data-dir FOLDER]

It trains SmolLM2-135M-Instruct to describe a Python function in one short sentence. A rule replaces human labelers: of
two answers, the one that ends after its first sentence is preferred. At the end, the first and the last model answer
the same held-out questions.
"""

import argparse
import json
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from demo import CACHE, MODEL, add_base_model, console, print_heading
from follow import follow
from make_rows import split_rows
from openai import OpenAI
from rich.table import Table
from rich.text import Text
from service import running_service

TAILS = (
    "It is part of the standard library, and there are many ways to use it in a program of yours.",
    "If you want to know more about it, please read the documentation, which has a lot of examples.",
    "Here is an example of how to use it, step by step, with all of its arguments and what they mean.",
)
STEPS = {"sft": 12, "reward": 12, "ppo": 8}
SHOWN = 4
MAX_ANSWER_TOKENS = 32


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the RLHF pipeline on a small language model.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", type=Path, default=CACHE / "rlhf")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stop the service too
    data_dir = options.data_dir.resolve()
    print_heading("A base model, and the service")
    add_base_model(data_dir)
    with running_service(data_dir, log=data_dir / "up.log") as credentials:
        client = OpenAI(**credentials)
        questions = list(rows(options.seed))
        print_heading("One request")
        pipeline = create(client, questions, options.seed)
        for stage in pipeline["stages"]:
            print_heading(f"{stage['name']}: {stage['job_id']}")
            job, _ = follow(client, stage["job_id"], console)
            if job.status != "succeeded":
                raise SystemExit(f"The stage {job.status}: {job.error.message if job.error else 'no reason given'}")
            print_samples(client, job.id)
        print_heading("The first model and the last one")
        compare(client, job.fine_tuned_model, [question for question, _ in questions[-SHOWN:]])
    return 0


def rows(seed: int) -> Iterator[tuple[str, str]]:
    """Yield (question, answer) pairs about standard library functions: 60 for training, then the held-out ones."""
    for question, _ in split_rows(seed)["train"][: 60 + SHOWN]:
        signature, summary = question.split("\n")
        yield f"What does {signature.split('(')[0]} do?", summary.rstrip(".") + "."


def create(client: OpenAI, questions: list[tuple[str, str]], seed: int) -> Any:
    training, rng = questions[:-SHOWN], random.Random(seed)
    tails = [rng.choice(TAILS) for _ in training]
    prompts = [{"role": "user", "content": question} for question, _ in training]
    # Half of the demonstrations are too long, so that the reward model has something to correct.
    sft = [
        {"messages": [user, answer(text if row % 2 else f"{text} {tail}")]}
        for row, (user, (_, text), tail) in enumerate(zip(prompts, training, tails, strict=True))
    ]
    preferences = [
        {
            "input": {"messages": [user]},
            "preferred_output": [answer(text)],
            "non_preferred_output": [answer(f"{text} {tail}")],
        }
        for user, (_, text), tail in zip(prompts, training, tails, strict=True)
    ]
    files = {
        "sft": upload(client, sft),
        "reward": upload(client, preferences),
        "ppo": upload(client, [{"messages": [user]} for user in prompts]),
    }
    options: dict[str, dict[str, Any]] = {"ppo": {"max_tokens": MAX_ANSWER_TOKENS, "missing_eos_penalty": 1.0}}
    methods = {"sft": "supervised", "reward": "reward", "ppo": "ppo"}
    batch = {"hyperparameters": {"n_epochs": 5, "batch_size": 16}}
    body = {
        "model": MODEL,
        "suffix": "short",
        "stages": [
            {
                "name": name,
                "method": {"type": method, method: batch | options.get(name, {})},
                "training_file": files[name],
                "training": {"max_steps": STEPS[name], "learning_rate": {"ppo": 2e-4}.get(name, 1e-3)},
                "seed": seed,
            }
            for name, method in methods.items()
        ],
    }
    console.print_json(json.dumps(body | {"stages": [body["stages"][-1]]}))
    return client.post("/fine_tuning/pipelines", body=body, cast_to=object)


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def upload(client: OpenAI, rows: list[dict[str, Any]]) -> str:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return client.files.create(file=("rows.jsonl", content), purpose="fine-tune").id


def print_samples(client: OpenAI, job_id: str) -> None:
    """Print samples that the policy generated during training, from the job's events."""
    events = list(client.fine_tuning.jobs.list_events(job_id, limit=100))
    for event in reversed([event for event in events if "sample (" in event.message][-SHOWN:]):
        console.print(f"  {event.message}", markup=False)


def compare(client: OpenAI, last: str, questions: list[str]) -> None:
    table = Table("question", "first model", "last model", show_lines=True)
    for question in questions:
        choices = [
            client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": question}],
                temperature=0,
                max_tokens=MAX_ANSWER_TOKENS,
            ).choices[0]
            for model in (MODEL, last)
        ]
        answers = [Text(f"{choice.message.content} [{choice.finish_reason}]") for choice in choices]
        table.add_row(Text(question), *answers)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
