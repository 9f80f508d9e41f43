"""Run folders as the supervisor fills them, and a trainer run in them as it runs one: a process and a pipe."""

import collections
import inspect
import json
import os
import pathlib
import random
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tokenizers import Tokenizer

from api.infra.child_process import Process
from api.spec.recipe import Recipe
from api.spec.resolve import ResolvedRecipe, resolve
from tests.worker.children import fork
from worker.shared.arrays import load_rows, save_rows, split

TIMEOUT_S = 240


def random_rows(count: int, *, seed: int, shortest: int = 4, longest: int = 24, vocabulary: int = 250) -> list[Any]:
    """(tokens_T, loss_weights_T) pairs: the first half of each row is a prompt, weights vary and some are 0."""
    rng = np.random.default_rng(seed)
    rows = []
    for length in rng.integers(shortest, longest, count, endpoint=True):
        weights_T = rng.choice([0.0, 0.5, 1.0], length) * (np.arange(length) >= length // 2)
        weights_T[-1] = 1.0
        rows.append((rng.integers(0, vocabulary, length), weights_T))
    return rows


def docstring_rows(base: Path, count: int, *, seed: int) -> list[Any]:
    """Real text: the standard library's own docstrings, the second half of each supervised."""
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    functions = [
        value
        for module in (collections, json, pathlib, random, statistics, textwrap)
        for value in vars(module).values()
    ]
    texts = {(inspect.getdoc(each) or "").partition("\n\n")[0] for each in functions if callable(each)}
    chosen = random.Random(seed).sample(sorted(text for text in texts if 60 < len(text) < 200), count)
    rows = [np.array(tokenizer.encode(text).ids[:40]) for text in chosen]
    return [(tokens_T, (np.arange(len(tokens_T)) >= len(tokens_T) // 2).astype(np.float32)) for tokens_T in rows]


def save(path: Path, rows: Sequence[Any]) -> None:
    lengths = [len(tokens_T) for tokens_T, _ in rows]
    tokens_N, weights_N = (np.concatenate(column) for column in zip(*rows, strict=True))
    save_rows(path, tokens_N, weights_N, np.cumsum([0, *lengths]))


def make_run(
    folder: Path,
    base: Path,
    *,
    train: Sequence[Any],
    validation: Sequence[Any] = (),
    max_length: int = 64,
    hardware: Mapping[str, Any] | None = None,
    **recipe: Any,
) -> Path:
    """A run folder. `recipe` is the body of a job; `hardware` replaces its precision and micro-batch."""
    (folder / "data").mkdir(parents=True)
    (folder / "base").symlink_to(base)
    save(folder / "data" / "train.safetensors", train)
    if validation:
        save(folder / "data" / "validation.safetensors", validation)
        recipe |= {"validation_file": "file-validation"}
    (folder / "recipe.json").write_text(_resolved(folder, recipe, max_length, hardware or {}).model_dump_json(indent=2))
    return folder


def _resolved(folder: Path, body: Mapping[str, Any], max_length: int, hardware: Mapping[str, Any]) -> ResolvedRecipe:
    recipe = Recipe.model_validate({"model": "tiny", "training_file": "file-train", "seed": 7} | dict(body))
    rows, _, _ = load_rows(folder / "data" / "train.safetensors").truncate(max_length)
    train, held_out = split(rows, recipe.training.validation_split, 7)
    validation = folder / "data" / "validation.safetensors"
    if validation.exists():
        held_out, _, _ = load_rows(validation).truncate(max_length)
    counts: dict[str, Any] = {"train_rows": len(train), "validation_rows": len(held_out)}
    resolved = resolve(recipe, job_id="ftjob-test", seed=7, max_length=max_length, **counts)
    settled = {"precision": "float32", "micro_batch_tokens": 64, "gradient_checkpointing": False} | dict(hardware)
    return resolved.model_copy(update=settled)


@dataclass
class Finished:
    code: int
    reports: list[dict[str, Any]]
    log: str

    def of(self, type_: str) -> list[dict[str, Any]]:
        return [report for report in self.reports if report["type"] == type_]

    @property
    def last(self) -> dict[str, Any]:
        return self.reports[-1]


def start(folder: Path, env: Mapping[str, str] | None = None) -> tuple[Process, TextIO]:
    """The trainer as a child, and the file of its reports."""
    read_fd, write_fd = os.pipe()
    child = fork("worker.train", str(folder), output=folder / "log.txt", report_fd=write_fd, env=env)
    os.close(write_fd)
    return child, os.fdopen(read_fd)


def finish(folder: Path, child: Process, reports: TextIO) -> Finished:
    seen = [json.loads(line) for line in reports]
    return Finished(child.wait(TIMEOUT_S), seen, (folder / "log.txt").read_text(errors="replace"))


def run_trainer(folder: Path, *, env: Mapping[str, str] | None = None) -> Finished:
    return finish(folder, *start(folder, env))
