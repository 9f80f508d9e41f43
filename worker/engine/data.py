"""The rows that a job trains and evaluates on: its arrays, cut and split as its recipe says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from api.estimate.work import EVALUATED_ROWS
from api.spec.lifecycle import FailureReason
from api.spec.resolve import ResolvedRecipe
from worker.engine.errors import TrainingError
from worker.engine.model.batches import rows_of_steps
from worker.engine.objective import Floats, Objective, Places
from worker.engine.out_of_memory import retry_with_smaller_batch
from worker.rows.tokenizer import TokenizerWrapper
from worker.shared.arrays import Rows, load_rows, split


@dataclass(frozen=True)
class Data:
    train: Rows
    validation: Rows
    """Without rows if there is nothing to validate on."""
    seed: int
    """The job's."""

    @cached_property
    def few_validation(self) -> Rows:
        return drawn(self.validation, EVALUATED_ROWS, self.seed)

    def prepared(
        self, objective: Objective, warn: Callable[[str], None], known: Mapping[str, Floats] | None = None
    ) -> "Data":
        """With what the method must know of the rows before the weights change. Of the rows for training, those that
        the recipe's steps reach; `known`: the `references` of an earlier attempt at the job."""
        known = known or {}
        seen = rows_of_steps(len(self.train), objective.recipe)
        return Data(
            _prepared(self.train, objective, warn, seen, known.get("train")),
            _prepared(self.validation, objective, warn, None, known.get("validation")),
            self.seed,
        )

    @property
    def references(self) -> dict[str, Floats]:
        """What a method knows of the rows by the model of step 0, NaN where it did not look; {} of most methods."""
        parts = {"train": self.train, "validation": self.validation}
        return {name: rows.per_row["reference"] for name, rows in parts.items() if "reference" in rows.per_row}


def _prepared(
    rows: Rows, objective: Objective, warn: Callable[[str], None], needed: Places | None, known: Floats | None
) -> Rows:
    if not len(rows):
        return rows
    act = partial(objective.prepare, rows, needed, known)
    return retry_with_smaller_batch(act, objective, rows, "before the first step", warn)


def load_data(folder: Path, recipe: ResolvedRecipe) -> Data:
    train = _cut(_load(folder / "train.safetensors", recipe), folder, recipe)
    train, validation = split(train, recipe.validation_split, recipe.seed)
    path = folder / "validation.safetensors"
    if path.exists():
        validation = _cut(_load(path, recipe), folder, recipe)
    if -(-len(train) // recipe.batch_size) != recipe.steps_per_epoch:
        raise TrainingError(FailureReason.INTERNAL) from ValueError(
            f"{len(train)} rows in batches of {recipe.batch_size} are not {recipe.steps_per_epoch} steps"
        )
    return Data(train, validation, recipe.seed)


def _cut(rows: Rows, folder: Path, recipe: ResolvedRecipe) -> Rows:
    """The rows that `max_length` leaves. A text with a label that is cut keeps the end that the tokenizer frames texts
    with, as `tokenizer(text, truncation=True, max_length=…)` does."""
    drop = recipe.overlong == "drop"
    kept, _, _ = rows.truncate(recipe.max_length, drop=drop)
    if drop or recipe.method.output != "labels" or not (kept.ends < rows.ends).any():
        return kept
    end = np.array(TokenizerWrapper.load(folder.parent / "base").frame_end, np.int32)
    for row in np.flatnonzero(kept.ends < rows.ends) if len(end) else ():
        before, after = rows.ends[row], kept.ends[row]
        if np.array_equal(rows.tokens[before - len(end) : before], end):
            rows.tokens[after - len(end) : after] = end
    return kept


def _load(path: Path, recipe: ResolvedRecipe) -> Rows:
    """The file's rows. Where labels have names, their numbers are those of the recipe: each file numbers its own."""
    rows = load_rows(path)
    if recipe.labels is None or rows.label_names is None or rows.labels is None:
        return rows
    numbers = {name: number for number, name in enumerate(recipe.labels.names)}
    if unknown := [name for name in rows.label_names if name not in numbers]:
        message = f"The validation file has labels that the training file has not: {', '.join(unknown)[:200]}."
        raise TrainingError(FailureReason.INVALID_FILE, message)
    moved = np.array([numbers[name] for name in rows.label_names], np.int64)
    if recipe.labels.problem == "single_label":
        return replace(rows, labels=moved[rows.labels.astype(np.int64)].astype(np.float32))
    spread = np.zeros((len(rows), len(numbers)), np.float32)
    spread[:, moved] = rows.labels
    return replace(rows, labels=spread)


def drawn(rows: Rows, count: int, seed: int) -> Rows:
    """Return `count` of the rows, drawn with the seed, in their file's order; all of them where there are no more.

    Where rows have labels, each label has the share that it has of all rows, to within a row; of numbers, each part of
    their range has (systematic sampling of the rows in the order of their labels). Files are often sorted by class,
    source or date: the first rows would be of one kind.
    """
    if count >= len(rows):
        return rows
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(rows))
    if rows.labels is not None:
        _, kinds = np.unique(rows.labels, axis=0, return_inverse=True)
        order = order[np.argsort(kinds.reshape(-1)[order], kind="stable")]
    picked = ((np.arange(count) + 0.5) * len(rows) / count).astype(np.int64)
    return rows.take(np.sort(order[picked]))
