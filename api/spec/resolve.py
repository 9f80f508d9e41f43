"""The resolved recipe: every "auto" replaced by a value."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from api.spec.fields import AUTO, Auto, StrictModel
from api.spec.methods import Method
from api.spec.methods.base import Problem
from api.spec.recipe import EarlyStopping, Overlong, Precision, Recipe, Scheduler
from api.spec.techniques import Technique


class Labels(StrictModel):
    """What a classifier learns to tell."""

    problem: Problem
    names: tuple[str, ...] = ()
    """Of the classes, in the order of the scores; none for regression."""


class ResolvedRecipe(StrictModel):
    """What `recipe.json` in the run folder holds: everything the trainer needs to know, and no "auto"."""

    job_id: str
    model: str
    seed: int
    method: Method
    technique: Technique
    labels: Labels | None = None
    """Of classification."""
    continues: str | None = None
    """The model whose adapter this training begins from; `model` is then the base of both."""
    merged: bool = False
    """Publish the base's weights with the adapter's added, beside the adapter."""
    gguf: Literal["f16", "q8_0"] | None = None
    """Publish the whole model as a GGUF file, too."""
    n_epochs: int
    batch_size: int
    learning_rate: float
    max_length: int
    overlong: Overlong = "truncate"
    validation_split: float
    steps_per_epoch: int
    total_steps: int
    scheduler: Scheduler
    warmup_steps: int
    weight_decay: float
    max_grad_norm: float | None
    eval_every: int | None
    """None without validation data."""
    save_every: int
    early_stopping: EarlyStopping | None
    keep_best: bool
    precision: Auto[Precision] = AUTO
    gradient_checkpointing: Auto[bool] = AUTO
    micro_batch_tokens: Auto[int] = AUTO


HARDWARE_FIELDS = ("gradient_checkpointing", "micro_batch_tokens")
"""What an attempt with less memory may change. The gradient of a step stays what it is."""


def with_hardware(stored: Mapping[str, Any], resolved: ResolvedRecipe) -> dict[str, Any]:
    """The stored recipe with what the hardware decides of it. All else stays as the release that accepted it wrote it:
    saved states are known by these bytes (worker.engine.identity)."""
    decided = resolved.model_dump(mode="json", include={*HARDWARE_FIELDS, "precision"})
    return {**stored, **decided}


def resolve(
    recipe: Recipe,
    *,
    job_id: str,
    seed: int,
    max_length: int,
    train_rows: int,
    validation_rows: int,
    labels: Labels | None = None,
    base_model: str | None = None,
    merged: bool = False,
) -> ResolvedRecipe:
    """Replace every "auto" that depends on the data. What depends on the hardware stays "auto" until it is known.

    The rows are those that `max_length` and `validation_split` leave. `base_model`: of the fine-tuned model that the
    recipe names, if it continues one.
    """
    asked, training = recipe.method.options.hyperparameters, recipe.training
    n_epochs = _auto_epochs(train_rows) if asked.n_epochs == AUTO else asked.n_epochs
    batch_size = _auto_batch(recipe, train_rows, n_epochs) if asked.batch_size == AUTO else asked.batch_size
    multiplier = 1.0 if asked.learning_rate_multiplier == AUTO else asked.learning_rate_multiplier
    learning_rate = training.learning_rate
    if learning_rate == AUTO:
        learning_rate = _auto_learning_rate(recipe) * multiplier
    steps_per_epoch = math.ceil(train_rows / batch_size)
    total_steps = min(n_epochs * steps_per_epoch, training.max_steps or n_epochs * steps_per_epoch)
    evaluates = validation_rows > 0
    eval_every = recipe.method.evaluation_interval if training.eval_every == AUTO else training.eval_every
    return ResolvedRecipe(
        job_id=job_id,
        model=base_model or recipe.model,
        labels=labels,
        continues=recipe.model if base_model not in (None, recipe.model) else None,
        merged=merged,
        gguf=recipe.export.gguf,
        seed=seed,
        method=recipe.method,
        technique=recipe.technique,
        n_epochs=n_epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        max_length=max_length,
        overlong=recipe.overlong,
        validation_split=training.validation_split,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        scheduler=training.scheduler,
        warmup_steps=math.ceil(training.warmup_ratio * total_steps),
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        eval_every=_tenths(eval_every, total_steps) if evaluates else None,
        save_every=_tenths(training.save_every, total_steps),
        early_stopping=training.early_stopping if evaluates else None,
        keep_best=evaluates if training.keep_best == AUTO else training.keep_best and evaluates,
        precision=training.precision,
        gradient_checkpointing=training.gradient_checkpointing,
        micro_batch_tokens=training.micro_batch_tokens,
    )


def _auto_epochs(rows: int) -> int:
    """OpenAI's published rule: three, more for few rows (up to 25) and fewer for very many."""
    if 3 * rows < 100:
        return min(25, max(3, 100 // rows))
    return max(1, 25_000 // rows) if 3 * rows > 25_000 else 3


def _auto_batch(recipe: Recipe, rows: int, n_epochs: int) -> int:
    """The largest power of two up to 64 that still leaves about a hundred optimizer steps; at least what the method
    needs for its estimates, or all rows where they are fewer."""
    batch: int = 1 << min(6, int(math.log2(max(1.0, rows * n_epochs / 100))))
    return max(batch, min(recipe.method.smallest_batch, rows))


def _auto_learning_rate(recipe: Recipe) -> float:
    technique, method = recipe.technique, recipe.method
    if technique.whole_model and method.full_learning_rate is not None:
        return method.full_learning_rate
    return technique.default_learning_rate * method.learning_rate_factor


def _tenths(asked: int | Literal["auto"], total_steps: int) -> int:
    return max(1, total_steps // 10) if asked == AUTO else asked


MIN_ROW_TOKENS = 8
"""The shortest `training.max_length`."""


def max_row_tokens(method: Method, technique: Technique, context_window: int) -> int:
    """Tokens that a row may have: what is learnt before it, and the answer that is sampled after it, need theirs."""
    rollout = method.rollout_options
    return context_window - technique.virtual_tokens - (rollout.max_tokens if rollout else 0)


def resolve_max_length(recipe: Recipe, *, longest_row: int, context_window: int) -> int:
    """Tokens per example. Comes first: truncation may drop rows, and every other "auto" counts what is left."""
    asked = recipe.training.max_length
    return min(longest_row if asked == AUTO else asked, max_row_tokens(recipe.method, recipe.technique, context_window))
