"""RLHF as one request: supervised fine-tuning, a reward model and PPO, as three linked jobs on a language model.

    python examples/rlhf.py [MODEL] [--steps SFT,REWARD,PPO]

The model learns to describe a Python function in one short sentence. A rule replaces human labelers: of two answers,
the one that ends after its first sentence is preferred. At the end, the first and the last model answer the same
held-out questions. Set OPENAI_BASE_URL and OPENAI_API_KEY to the server and its key.
"""

import argparse
import json
import random
from collections.abc import Iterator
from typing import Any

from make_rows import split_rows
from openai import OpenAI
from wait import wait

TAILS = (
    "It is part of the standard library, and there are many ways to use it in a program of yours.",
    "If you want to know more about it, please read the documentation, which has a lot of examples.",
    "Here is an example of how to use it, step by step, with all of its arguments and what they mean.",
)
SHOWN = 4
MAX_ANSWER_TOKENS = 32

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the RLHF pipeline on a language model.")
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--steps", default="12,12,8", help="steps of the three stages")
    options = parser.parse_args()
    client, questions = OpenAI(), list(rows())
    pipeline: Any = client.post(
        "/fine_tuning/pipelines", body=request(client, options.model, questions, options.steps), cast_to=object
    )
    for stage in pipeline["stages"]:
        print(f"\n{stage['name']}: {stage['job_id']}")
        job = wait(client, client.fine_tuning.jobs.retrieve(stage["job_id"]))
    for question, _ in questions[-SHOWN:]:
        print(f"\n{question}")
        for model in (options.model, job.fine_tuned_model):
            print(f"  {model}: {answer(client, model, question)}")


def rows() -> Iterator[tuple[str, str]]:
    """Yield (question, answer) pairs about standard library functions: 60 for training, then the held-out ones."""
    for question, _ in split_rows(seed=0)["train"][: 60 + SHOWN]:
        signature, summary = question.split("\n")
        yield f"What does {signature.split('(')[0]} do?", summary.rstrip(".") + "."


def request(client: OpenAI, model: str, questions: list[tuple[str, str]], steps: str) -> Row:
    """Upload the three files and return the body of the request."""
    rng = random.Random(0)
    demonstrations, preferences, prompts = [], [], []
    for number, (question, text) in enumerate(questions[:-SHOWN]):
        user, tail = {"role": "user", "content": question}, rng.choice(TAILS)
        short, long = ({"role": "assistant", "content": content} for content in (text, f"{text} {tail}"))
        # Half of the demonstrations are too long, so that the reward model has something to correct.
        demonstrations.append({"messages": [user, short if number % 2 else long]})
        preferences.append({"input": {"messages": [user]}, "preferred_output": [short], "non_preferred_output": [long]})
        prompts.append({"messages": [user]})
    batch = {"hyperparameters": {"n_epochs": 5, "batch_size": 16}}
    rollouts = {"max_tokens": MAX_ANSWER_TOKENS, "missing_eos_penalty": 1.0}
    sft, reward, ppo = (int(number) for number in steps.split(","))
    return {
        "model": model,
        "suffix": "short",
        "stages": [
            {
                "name": "sft",
                "training_file": upload(client, demonstrations),
                "method": {"type": "supervised", "supervised": batch},
                "training": {"max_steps": sft, "learning_rate": 1e-3},
            },
            {
                "name": "reward",
                "training_file": upload(client, preferences),
                "method": {"type": "reward", "reward": batch},
                "training": {"max_steps": reward, "learning_rate": 1e-3},
            },
            {  # it continues from the supervised model, and its judge is the reward model
                "name": "ppo",
                "training_file": upload(client, prompts),
                "method": {"type": "ppo", "ppo": batch | rollouts},
                "training": {"max_steps": ppo, "learning_rate": 2e-4},
            },
        ],
    }


def upload(client: OpenAI, rows: list[Row]) -> str:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return client.files.create(file=("rows.jsonl", content), purpose="fine-tune").id


def answer(client: OpenAI, model: str, question: str) -> str:
    completion = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=MAX_ANSWER_TOKENS,
    )
    return f"{completion.choices[0].message.content} [{completion.choices[0].finish_reason}]"


if __name__ == "__main__":
    main()
