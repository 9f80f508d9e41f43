"""RLHF as one request: imitation, a reward model, PPO against it, as three linked jobs on a real language model.

    python examples/rlhf.py [--seed N] [--data-dir FOLDER]

Teaches SmolLM2-135M-Instruct to say in one short sentence what a Python function does. People are stood in for by a
rule that anybody can check: of two answers, the one is preferred that ends after its first sentence. It ends by asking
the first model and the last one the same held-out questions.
"""

import argparse
import json
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from demo import CACHE, MODEL, add_base_model, chapter, console
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
LONGEST_ANSWER = 32


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the RLHF pipeline on a small language model.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", type=Path, default=CACHE / "rlhf")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the service is stopped then, too
    data_dir = options.data_dir.resolve()
    chapter("A base model, and the service")
    add_base_model(data_dir)
    with running_service(data_dir, log=data_dir / "up.log") as credentials:
        client = OpenAI(**credentials)
        questions = list(rows(options.seed))
        chapter("One request")
        pipeline = create(client, questions, options.seed)
        for stage in pipeline["stages"]:
            chapter(f"{stage['name']}: {stage['job_id']}")
            job, _ = follow(client, stage["job_id"], console)
            if job.status != "succeeded":
                raise SystemExit(f"The stage {job.status}: {job.error.message if job.error else 'no reason given'}")
            show_samples(client, job.id)
        chapter("The first model and the last one")
        compare(client, job.fine_tuned_model, [question for question, _ in questions[-SHOWN:]])
    return 0


def rows(seed: int) -> Iterator[tuple[str, str]]:
    """(question, answer) pairs about the standard library's functions: 60 to learn from, the rest held out."""
    for question, _ in split_rows(seed)["train"][: 60 + SHOWN]:
        signature, summary = question.split("\n")
        yield f"What does {signature.split('(')[0]} do?", summary.rstrip(".") + "."


def create(client: OpenAI, questions: list[tuple[str, str]], seed: int) -> Any:
    learnt, rng = questions[:-SHOWN], random.Random(seed)
    tail = [rng.choice(TAILS) for _ in learnt]
    said = [{"role": "user", "content": question} for question, _ in learnt]
    # The demonstrations ramble as often as not, so that there is something left for the reward to teach.
    sft = [
        {"messages": [user, answer(text if row % 2 else f"{text} {more}")]}
        for row, (user, (_, text), more) in enumerate(zip(said, learnt, tail, strict=True))
    ]
    preferences = [
        {
            "input": {"messages": [user]},
            "preferred_output": [answer(text)],
            "non_preferred_output": [answer(f"{text} {more}")],
        }
        for user, (_, text), more in zip(said, learnt, tail, strict=True)
    ]
    files = {
        "sft": upload(client, sft),
        "reward": upload(client, preferences),
        "ppo": upload(client, [{"messages": [user]} for user in said]),
    }
    own: dict[str, dict[str, Any]] = {"ppo": {"max_tokens": LONGEST_ANSWER, "missing_eos_penalty": 1.0}}
    methods = {"sft": "supervised", "reward": "reward", "ppo": "ppo"}
    batch = {"hyperparameters": {"n_epochs": 5, "batch_size": 16}}
    body = {
        "model": MODEL,
        "suffix": "short",
        "stages": [
            {
                "name": name,
                "method": {"type": method, method: batch | own.get(name, {})},
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


def show_samples(client: OpenAI, job_id: str) -> None:
    """What the policy said while it trained, as its events tell."""
    events = list(client.fine_tuning.jobs.list_events(job_id, limit=100))
    for event in reversed([event for event in events if "sample (" in event.message][-SHOWN:]):
        console.print(f"  {event.message}", markup=False)


def compare(client: OpenAI, last: str, questions: list[str]) -> None:
    table = Table("question", "first model", "last model", show_lines=True)
    for question in questions:
        said = [
            client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": question}],
                temperature=0,
                max_tokens=LONGEST_ANSWER,
            ).choices[0]
            for model in (MODEL, last)
        ]
        shown = [Text(f"{each.message.content} [{each.finish_reason}]") for each in said]
        table.add_row(Text(question), *shown)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
