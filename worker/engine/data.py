"""The rows that a job trains and evaluates on, truncated and split according to its recipe."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from api.estimate.work import EVALUATED_ROWS
from api.spec.lifecycle import FailureReason
from api.spec.resolve import ResolvedRecipe
from worker.engine.errors import TrainingError
from worker.engine.memory.out_of_memory import retry_with_smaller_batch
from worker.engine.objective import Floats, Objective
from worker.engine.row_order import rows_of_steps
from worker.rows.tokenize_rows import TokenizerWrapper
from worker.shared.arrays import Rows, load_rows, split


@dataclass(frozen=True)
class Data:
    train: Rows
    validation: Rows
    """Empty if the job has no validation rows."""
    seed: int
    """The job's seed."""
    truncated: bool = False
    """Whether training rows were cut to the recipe's `max_length`."""

    @cached_property
    def validation_subset(self) -> Rows:
        """The validation rows that evaluations during an epoch use. The evaluation at the end of an epoch uses all
        validation rows."""
        return draw_rows(self.validation, EVALUATED_ROWS, self.seed)

    def prepare(self, objective: Objective, known: Mapping[str, Floats] | None = None) -> "Data":
        """Return the data in the form that the method trains on. `known`: the `references` that an earlier attempt
        computed, to be used again."""
        known = known or {}
        train = objective.prepare(self.train, known.get("train"))
        validation = self.validation
        if len(validation):
            validation = objective.prepare(validation, known.get("validation"))
        return replace(self, train=train, validation=validation)

    def compute_references(
        self, objective: Objective, warn: Callable[[str], None], after_group: Callable[[], None] = lambda: None
    ) -> None:
        """Compute the reference's log-probabilities that the prepared data lacks: for all validation rows, and for the
        training rows that the recipe's steps reach. The model must have the weights of step 0.

        If an exception ends the computation, the data keeps what was computed until then. `after_group` is called after
        each group of rows.
        """
        if not objective.has_reference:
            return
        reached = rows_of_steps(len(self.train), objective.recipe)
        for rows, needed in ((self.train, reached), (self.validation, np.arange(len(self.validation)))):
            if len(rows):
                act = partial(objective.compute_reference, rows, needed, after_group)
                retry_with_smaller_batch(act, objective, rows, "before the first step", warn)

    @property
    def references(self) -> dict[str, Floats]:
        """The reference's log-probabilities of the training and validation rows, NaN for rows that no step reaches;
        empty if the method has no reference."""
        parts = {"train": self.train, "validation": self.validation}
        return {name: rows.per_row["reference"] for name, rows in parts.items() if "reference" in rows.per_row}


def load_data(folder: Path, recipe: ResolvedRecipe) -> Data:
    """Load the run folder's arrays. If there is no validation file, hold out the share `validation_split` of the
    training rows."""
    train, truncated = _truncate(_load(folder / "train.safetensors", recipe), folder, recipe)
    train, validation = split(train, recipe.validation_split, recipe.seed)
    path = folder / "validation.safetensors"
    if path.exists():
        validation, _ = _truncate(_load(path, recipe), folder, recipe)
    if -(-len(train) // recipe.batch_size) != recipe.steps_per_epoch:
        raise TrainingError(FailureReason.INTERNAL) from ValueError(
            f"{len(train)} rows in batches of {recipe.batch_size} are not {recipe.steps_per_epoch} steps"
        )
    return Data(train, validation, recipe.seed, truncated > 0)


def _truncate(rows: Rows, folder: Path, recipe: ResolvedRecipe) -> tuple[Rows, int]:
    """Return the rows and the number of rows that were cut. Rows longer than `max_length` are cut, or dropped if the
    recipe's `overlong` is "drop".

    A labeled text that is cut keeps the tokens that the tokenizer puts at the end of every text, as
    `tokenizer(text, truncation=True, max_length=…)` does: classifiers have never seen a text without them.
    """
    drop = recipe.overlong == "drop"
    kept, _, truncated = rows.truncate(recipe.max_length, drop=drop)
    if drop or recipe.method.output != "labels" or not (kept.ends < rows.ends).any():
        return kept, truncated
    end = np.array(TokenizerWrapper.load(folder.parent / "base").frame_end, np.int32)
    for row in np.flatnonzero(kept.ends < rows.ends) if len(end) else ():
        before, after = rows.ends[row], kept.ends[row]
        if np.array_equal(rows.tokens[before - len(end) : before], end):
            rows.tokens[after - len(end) : after] = end
    return kept, truncated


def _load(path: Path, recipe: ResolvedRecipe) -> Rows:
    """Return the file's rows, with the label numbers of the recipe in place of the file's own numbers. Raise
    TrainingError if the file has a label that the recipe lacks."""
    rows = load_rows(path)
    if recipe.labels is None or rows.label_names is None or rows.labels is None:
        return rows
    numbers = {name: number for number, name in enumerate(recipe.labels.names)}
    if unknown := [name for name in rows.label_names if name not in numbers]:
        message = f"The validation file has labels that are missing in the training file: {', '.join(unknown)[:200]}."
        raise TrainingError(FailureReason.INVALID_FILE, message)
    recipe_numbers = np.array([numbers[name] for name in rows.label_names], np.int64)
    if recipe.labels.problem == "single_label":
        return replace(rows, labels=recipe_numbers[rows.labels.astype(np.int64)].astype(np.float32))
    columns = np.zeros((len(rows), len(numbers)), np.float32)
    columns[:, recipe_numbers] = rows.labels
    return replace(rows, labels=columns)


def draw_rows(rows: Rows, count: int, seed: int) -> Rows:
    """Return `count` rows drawn with the seed, in the file's order; all rows if there are at most `count`.

    Files are often sorted by class, source or date, so their first rows would all be of one kind. Labeled rows are
    sorted by label and drawn at even distances (systematic sampling). Each label, or each range of numeric labels, then
    keeps its share of the rows to within one row.
    """
    if count >= len(rows):
        return rows
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(rows))
    if rows.labels is not None:
        _, label_ranks = np.unique(rows.labels, axis=0, return_inverse=True)
        order = order[np.argsort(label_ranks.reshape(-1)[order], kind="stable")]
    picked = ((np.arange(count) + 0.5) * len(rows) / count).astype(np.int64)
    return rows.take(np.sort(order[picked]))
