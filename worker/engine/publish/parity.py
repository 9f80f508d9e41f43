"""Checks before a model is published.

The model's weights must be finite, it must have learned, and its files must give the trained model's outputs. If a
check fails, it raises TrainingError, and nothing is published.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from api.spec.evaluation import Evaluation
from api.spec.lifecycle import FailureReason
from api.spec.resolve import ResolvedRecipe
from api.spec.scoring import Tolerance
from worker.engine.errors import TrainingError
from worker.engine.model.trainable import TrainableModel
from worker.engine.publish.outputs import Outputs
from worker.methods import Objective
from worker.shared.arrays import Rows

LEARNED_ROWS, LEARNED_OF = 4, 64
"""Number of rows for `loss_on_training_rows`, which are the shortest of this number of first training rows."""
FILES_TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
"""Largest allowed difference, in nats or units of a score, between the outputs of the weights in memory and those of
the files. Transformers' own forward computes both, so the arithmetic is the same."""
FORWARD_TOLERANCE = 1e-3
"""Largest allowed difference between the trainer's own forward and transformers', in float32. In bfloat16 two correct
implementations differ by 0.3 nats on single tokens (docs/engine-log.md), so only float32 jobs and the tests can detect
a wrong forward pass."""
ROUNDED_MEAN = {"float32": 1e-2, "bfloat16": 0.25}
"""Allowed mean difference if the files hold different weights that make the same model: merged weights, or an adapter
that was rewritten for the unchanged base model. These weights are rounded once more, which moves single unlikely tokens
by up to a nat. If the adapter were missing or applied twice, the mean difference would exceed the limit."""
OTHER_MACHINE_MEAN = 0.1
"""Allowed mean difference, in bfloat16, between this machine and another one, because their kernels round differently.
"""
PLAIN_SCORE = 4.0
"""Largest score for which the tolerances hold as they are. Just below it, bfloat16 numbers are 0.016 apart, which is
less than each of bfloat16's tolerances. The tolerances grow with larger scores, as the distance does: a regression of
prices has scores in the thousands."""
LARGEST_WEIGHT = 65504.0
"""float16's largest number: larger weights cannot be served, whatever loss they happen to give."""


def check_weights(model: TrainableModel) -> None:
    """Raise TrainingError (diverged) if a weight to publish is not finite, or is above LARGEST_WEIGHT."""
    for master in model.masters.values():
        largest = float(master.detach().abs().max())
        if not largest <= LARGEST_WEIGHT:  # true for NaN, too
            raise TrainingError(FailureReason.DIVERGED)


def loss_on_training_rows(objective: Objective, rows: Rows, evaluation: Evaluation | None) -> float:
    """Return the trained model's loss on training rows: the comparison's if it was made on training rows. Otherwise,
    compute it on the shortest of the first rows, not truncated, because their supervised tokens may be anywhere."""
    if evaluation is not None and evaluation.drawn_from == "training":
        loss = evaluation.tuned["loss"]
        return math.nan if loss is None else loss
    first = np.arange(min(len(rows), LEARNED_OF))
    shortest = np.sort(first[np.argsort(rows.lengths[first], kind="stable")[:LEARNED_ROWS]])
    return objective.evaluate(rows.take(shortest)).loss


def check_learned(loss: float, threshold: float) -> None:
    """Raise TrainingError (diverged) if the loss on training rows is above `threshold`
    (`Objective.divergence_threshold`): the model has then learned nothing.

    Validation rows would be the wrong measure: a sound model may predict those wrongly with confidence.
    """
    if not loss <= threshold:  # true for NaN, too
        print(f"parity: the loss on training rows is {loss:.4g}, and {threshold:.4g} is allowed", flush=True)
        raise TrainingError(FailureReason.DIVERGED)


def check_forward_parity(trainer: Outputs, memory: Outputs, recipe: ResolvedRecipe) -> None:
    """Raise TrainingError (internal) if the outputs of the trainer's own forward pass, in float32, differ from those of
    transformers' forward pass."""
    error = "The trainer's own forward pass differs from the model's"
    _require(trainer, memory, "greatest", FORWARD_TOLERANCE * _growth(memory, recipe), error)


def check_files(memory: Outputs, files: Outputs, recipe: ResolvedRecipe) -> None:
    """Raise TrainingError (internal) if the exported files do not give the trained model's outputs."""
    error, precision = "The exported files do not reproduce the trained model", str(recipe.precision)
    growth = _growth(memory, recipe)
    if recipe.technique.changes_base:
        _require(memory, files, "mean", ROUNDED_MEAN[precision] * growth, error)
    else:
        _require(memory, files, "greatest", FILES_TOLERANCE[precision] * growth, error)


def check_merged(memory: Outputs, merged_outputs: Outputs, merged: Path, recipe: ResolvedRecipe) -> None:
    """Raise TrainingError (internal) if the merged weights do not give the trained model's outputs.

    The merged weights are rounded to the base's stored type, which may be less precise than the type of the
    computation.
    """
    stored = json.loads((merged / "config.json").read_bytes()).get("dtype", "float32")
    exact = stored == recipe.precision == "float32"
    tolerance = ROUNDED_MEAN["float32" if exact else "bfloat16"] * _growth(memory, recipe)
    _require(memory, merged_outputs, "mean", tolerance, "The merged weights do not reproduce the trained model")


def check_gguf(memory: Outputs, gguf_outputs: Outputs, recipe: ResolvedRecipe) -> None:
    """Raise TrainingError (internal) if the GGUF file differs from the trained model by more than its rounding."""
    exact = recipe.gguf == "f16" and recipe.precision == "float32"
    tolerance = ROUNDED_MEAN["float32" if exact else "bfloat16"]
    _require(memory, gguf_outputs, "mean", tolerance, "The GGUF file does not reproduce the trained model")


def tolerance_elsewhere(memory: Outputs, recipe: ResolvedRecipe, *, merged: bool = False) -> Tolerance:
    """Return how closely published files must match the trained model's outputs on any machine."""
    precision, growth = str(recipe.precision), _growth(memory, recipe)
    if merged:
        return {"mean": ROUNDED_MEAN["bfloat16"] * growth}
    if recipe.technique.changes_base:
        return {"mean": ROUNDED_MEAN[precision] * growth}
    if precision == "float32":
        return {"greatest": FORWARD_TOLERANCE * growth}
    return {"mean": OTHER_MACHINE_MEAN * growth}


def _growth(memory: Outputs, recipe: ResolvedRecipe) -> float:
    """Return the factor by which the tolerances are larger than for small scores; 1 for log-probabilities."""
    if recipe.method.output == "tokens":
        return 1.0
    largest = max(float(scores.abs().max()) for scores in memory)
    return max(1.0, largest / PLAIN_SCORE) if math.isfinite(largest) else 1.0


def _require(
    ours: Outputs, theirs: Outputs, measure: Literal["greatest", "mean"], tolerance: float, error: str
) -> None:
    """Raise TrainingError (internal) if the outputs differ by more than the tolerance.

    The log then lists the difference of every row; the user's message names the largest one.
    """
    measured = Difference.of(ours, theirs)
    difference = measured.greatest if measure == "greatest" else measured.mean
    print(
        f"parity: {len(measured.rows)} rows, {measure} difference {difference:.1e} (allowed: {tolerance:.0e})",
        flush=True,
    )
    if difference <= tolerance:  # false for NaN, too
        return
    print("\n".join(f"parity: {row}" for row in measured.rows), flush=True)
    raise TrainingError(
        FailureReason.INTERNAL,
        f"{error}, so nothing was published: the outputs on {len(measured.rows)} rows of the data differ by "
        f"{difference:.2g} {'on average' if measure == 'mean' else 'at most'}, and {tolerance:.2g} is allowed. "
        f"The largest difference: {measured.worst}. The job's log lists the others.",
    )


@dataclass(frozen=True)
class Difference:
    """The absolute difference of two models' outputs."""

    greatest: float
    mean: float
    worst: str
    """Row, position and values of the largest difference."""
    rows: list[str]
    """One line for each row, for the log."""

    @classmethod
    def of(cls, ours: Outputs, theirs: Outputs) -> "Difference":
        differences = [(a - b).abs() for a, b in zip(ours, theirs, strict=True)]
        # NaN counts as the largest.
        positions = [int(values.nan_to_num(math.inf).argmax()) for values in differences]
        lines = [
            f"row {row}, output {at} of {len(values)}: {ours[row][at]:.4g} against {theirs[row][at]:.4g}"
            for row, (values, at) in enumerate(zip(differences, positions, strict=True))
        ]
        largest = torch.stack([values[at] for values, at in zip(differences, positions, strict=True)])
        rows = [f"{line}; {float(row.mean()):.1e} on average" for line, row in zip(lines, differences, strict=True)]
        values = torch.cat(differences)
        worst = lines[int(largest.nan_to_num(math.inf).argmax())]
        return cls(float(values.max()), float(values.mean()), worst, rows)
