"""The workloads: what is trained, on rows of known lengths.

Rows consist of words of the standard library's docstrings that are one token each, so that their lengths are exact. A
run trains one epoch: every contestant sees the same rows, in Attune's order. Only "TRL best" takes supervised rows in
an order of its own, that of their lengths.
"""

import importlib
import inspect
import math
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from benchmarks.relations import bases

Row = dict[str, Any]
Kind = Literal["supervised", "classification", "dpo", "ppo", "grpo"]

MODEL = "base"
"""The base model's name in the service."""
RANK = 16
ALPHA = 32
HELD_OUT = 16
"""Rows of each workload that are evaluated after the training."""
WARM_UP_STEPS = 2
"""First steps whose time does not count, for every contestant: memory is allocated, and kernels are chosen."""
LABELS = ("docs", "code", "data", "net")
DPO_BETA = 0.1
REWARDED = "the"
"""An answer that contains this word has the reward 1, any other answer 0."""

MODULES = (
    *("argparse", "ast", "calendar", "decimal", "doctest", "email.message", "inspect", "logging", "shutil", "ssl"),
    *("statistics", "string", "subprocess", "tarfile", "threading", "unittest.case", "urllib.request", "zipfile"),
)


class Words:
    """Draws consecutive words of docstrings, each of which is one token of the base model."""

    def __init__(self, base: Path, seed: int) -> None:
        self._words, self._random = _single_tokens(base), random.Random(seed)

    def take(self, count: int) -> str:
        start = self._random.randrange(len(self._words))
        return " ".join(self._words[(start + index) % len(self._words)] for index in range(count))


@dataclass(frozen=True)
class Workload:
    name: str
    title: str
    kind: Kind
    lengths: tuple[int, ...]
    """Words of each training row; a row has some tokens more."""
    batch_size: int
    row: Callable[[Words, int, int], Row]
    """A function that returns the row with this many words and this number, in a format of `POST /v1/files`."""
    learning_rate: float = 1e-3
    quantized: bool = False
    """Whether the base model's weights have four bits (QLoRA)."""
    make_base: Callable[[], Path] = bases.smollm
    """A function that returns the folder of the base model."""
    answer_tokens: int = 0
    """Longest sampled answer of a method with rollouts; 0 for the other methods."""
    group_size: int = 1
    """Answers sampled for each prompt."""
    accumulation: int = 1
    """Number of micro-batches into which the peers divide a step, where memory does not suffice for one. Attune divides
    a step by its own prediction of memory."""

    @property
    def steps(self) -> int:
        return math.ceil(len(self.lengths) / self.batch_size)

    @property
    def save_step(self) -> int:
        """The step after which a checkpoint is saved. It is the last measured step, so that saving takes none of the
        measured time."""
        return self.steps - 1

    def rows(self, base: Path) -> dict[str, list[Row]]:
        """Return the rows for training and those held out, which have the same lengths."""
        words = Words(base, seed=0)
        held_out = self.lengths[:: math.ceil(len(self.lengths) / HELD_OUT)]
        parts = {"train": self.lengths, "heldout": held_out}
        return {
            name: [self.row(words, length, index) for index, length in enumerate(lengths)]
            for name, lengths in parts.items()
        }

    def recipe(self, seed: int) -> dict[str, Any]:
        """Return the body of a job without its files: one epoch at a constant rate, with one saved state."""
        options: dict[str, Any] = {"hyperparameters": {"n_epochs": 1, "batch_size": self.batch_size}}
        if self.answer_tokens:
            check = {"input": "{{sample.output_text}}", "reference": REWARDED, "operation": "ilike"}
            options["grader"] = {"type": "string_check", "name": "rewarded", **check}
            options["max_tokens"] = self.answer_tokens
        if self.kind == "grpo":
            options["group_size"] = self.group_size
        method = "reinforcement" if self.kind == "grpo" else self.kind
        return {
            "model": MODEL,
            "seed": seed,
            "method": {"type": method, method: options},
            "technique": {"type": "qlora" if self.quantized else "lora", "rank": RANK, "alpha": ALPHA},
            "training": {
                "learning_rate": self.learning_rate,
                "scheduler": "constant",
                "warmup_ratio": 0.0,
                "precision": "bfloat16",
                "save_every": self.save_step,
            },
        }


@cache
def _single_tokens(base: Path) -> tuple[str, ...]:
    """Return the docstrings' words, in their order, without those of several tokens."""
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.no_padding()

    def is_one_token(word: str) -> bool:
        # A first word has no space before it, and its token is another one.
        return len(tokenizer.encode(word, add_special_tokens=False)) == 1 and (
            len(tokenizer.encode(f"a {word}", add_special_tokens=False)) == 2
        )

    words = docstring_words()
    kept = {word for word in set(words) if is_one_token(word)}
    return tuple(word for word in words if word in kept)


def docstring_words() -> list[str]:
    """Return the words of the standard library's docstrings, in their order."""
    return re.findall(r"[a-z]+", " ".join(_docstrings()))


def _docstrings() -> Iterator[str]:
    for name in MODULES:
        for _, member in sorted(vars(importlib.import_module(name)).items()):
            if getattr(member, "__module__", None) == name:
                yield inspect.getdoc(member) or ""


def chat(words: Words, length: int, index: int) -> Row:
    asked = max(1, length // 4)
    return {"messages": [*_question(words.take(asked)), _message("assistant", words.take(length - asked))]}


def _document(words: Words, length: int, index: int) -> Row:
    return {"text": words.take(length)}


def _labeled(words: Words, length: int, index: int) -> Row:
    label = LABELS[index % len(LABELS)]
    return {"text": f"{label} {words.take(length)}", "label": label}


def _pair(words: Words, length: int, index: int) -> Row:
    """Return a pair of short answers to a long prompt. Their first words tell them apart."""
    answers = {"chosen": f"yes {words.take(24)}", "rejected": f"no {words.take(24)}"}
    return {
        "prompt": _question(words.take(length)),
        **{side: [_message("assistant", text)] for side, text in answers.items()},
    }


def _prompt(words: Words, length: int, index: int) -> Row:
    return {"messages": _question(words.take(length))}


def _question(text: str) -> list[dict[str, str]]:
    return [_message("system", "Python."), _message("user", text)]  # without a system message, the template adds one


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def skewed(count: int, *, median: int, longest: int) -> tuple[int, ...]:
    """Return log-normal lengths: most rows are short, and a few are many times as long."""
    draw = random.Random(0)
    return tuple(min(max(round(median * math.exp(draw.gauss(0, 0.9))), 8), longest) for _ in range(count))


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("skewed", "chat, skewed lengths", "supervised", skewed(96, median=55, longest=600), 8, chat),
        Workload("equal", "chat, 130 tokens each", "supervised", (112,) * 64, 8, chat),
        Workload("documents", "documents of 1,024 tokens", "supervised", (1023,) * 12, 2, _document),
        Workload(
            "classification", "classification, MiniLM", "classification",
            skewed(192, median=40, longest=250), 16, _labeled, make_base=bases.minilm,
        ),
        Workload("dpo", "DPO, prompts of 400 tokens", "dpo", (400,) * 24, 4, _pair, learning_rate=2e-4),
        Workload(
            "qlora", "QLoRA, chat of skewed lengths", "supervised",
            skewed(48, median=40, longest=300), 8, chat, quantized=True,
        ),
        Workload("ppo", "PPO, answers of 32 tokens", "ppo", (32,) * 48, 8, _prompt, 1e-4, answer_tokens=32),
        Workload(
            "grpo", "GRPO, groups of 4 answers of 32 tokens", "grpo",
            (32,) * 24, 4, _prompt, 1e-4, answer_tokens=32, group_size=4,
        ),
    )
}  # fmt: skip
