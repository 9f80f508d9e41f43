"""The resolved recipe, with a value in place of every "auto" that the model depends on."""

import math
from collections.abc import Mapping
from typing import Literal

from api.spec.fields import AUTO, Auto, StrictModel
from api.spec.methods import Method
from api.spec.methods.base import MethodBase, Problem
from api.spec.recipe import EarlyStopping, Overlong, Precision, Recipe, Scheduler
from api.spec.techniques import Technique
from api.spec.techniques.base import TechniqueBase


class Labels(StrictModel):
    """The labels of a classifier."""

    problem: Problem
    names: tuple[str, ...] = ()
    """Names of the classes in the order of the scores; empty for regression."""


class ResolvedRecipe(StrictModel):
    """The content of `recipe.json` in the run folder: everything that the trainer needs. When the trainer reads it,
    only `save_every` may still be "auto", because it changes nothing in the model."""

    job_id: str
    model: str
    seed: int
    method: Method
    technique: Technique
    labels: Labels | None = None
    """Labels of a classifier; None for other methods."""
    continues: str | None = None
    """The fine-tuned model whose adapter the training starts from; `model` is then the base model of that adapter.
    None: the training starts from `model` itself."""
    merged: bool = False
    """Publish also the merged weights."""
    gguf: Literal["f16", "q8_0"] | None = None
    """Publish also the whole model as a GGUF file."""
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
    """Optimizer steps between evaluations; None without validation data."""
    save_every: Auto[int]
    """Optimizer steps between saved states. "auto": every SAVE_S seconds (worker.engine.callbacks), and at the end of
    each epoch."""
    early_stopping: EarlyStopping | None
    keep_best: bool
    precision: Auto[Precision] = AUTO
    gradient_checkpointing: Auto[bool] = AUTO
    micro_batch_tokens: Auto[int] = AUTO


HARDWARE_FIELDS = ("gradient_checkpointing", "micro_batch_tokens")
"""Fields that may be changed for the next attempt if an attempt runs out of memory. They do not affect the gradient of
a step."""


def with_hardware(stored: Mapping[str, object], resolved: ResolvedRecipe) -> dict[str, object]:
    """Return the stored recipe with the fields that the hardware determines.

    The other fields stay byte for byte as the release that accepted the job wrote them, because saved states are
    identified by these bytes (worker.engine.saving.identity).
    """
    hardware = resolved.model_dump(mode="json", include={*HARDWARE_FIELDS, "precision"})
    return {**stored, **hardware}


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
    """Return the recipe with a value for every "auto" that depends on the data. Fields that depend on the hardware stay
    "auto" until the hardware is known.

    `train_rows` and `validation_rows`: the numbers of rows that are left after rows that are too long were dropped and
    validation rows were split off. `base_model`: if the recipe continues a fine-tuned model, the base of that model.
    """
    requested, training = recipe.method.options.hyperparameters, recipe.training
    n_epochs = _auto_epochs(train_rows) if requested.n_epochs == AUTO else requested.n_epochs
    batch_size = _auto_batch(recipe, train_rows, n_epochs) if requested.batch_size == AUTO else requested.batch_size
    multiplier = 1.0 if requested.learning_rate_multiplier == AUTO else requested.learning_rate_multiplier
    learning_rate = training.learning_rate
    if learning_rate == AUTO:
        learning_rate = auto_learning_rate(recipe.technique, recipe.method) * multiplier
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
        eval_every=_interval(eval_every, total_steps) if evaluates else None,
        save_every=training.save_every,
        early_stopping=training.early_stopping if evaluates else None,
        keep_best=evaluates if training.keep_best == AUTO else training.keep_best and evaluates,
        precision=training.precision,
        gradient_checkpointing=training.gradient_checkpointing,
        micro_batch_tokens=training.micro_batch_tokens,
    )


def _auto_epochs(rows: int) -> int:
    """Return the number of epochs by OpenAI's published rule: usually 3; up to 25 for few rows, fewer than 3 for very
    many rows."""
    if 3 * rows < 100:
        return min(25, max(3, 100 // rows))
    return max(1, 25_000 // rows) if 3 * rows > 25_000 else 3


def _auto_batch(recipe: Recipe, rows: int, n_epochs: int) -> int:
    """Return the largest power of two up to 64 with which the training still has about a hundred optimizer steps.

    The batch has at least the method's `smallest_batch` rows, or all rows if there are fewer.
    """
    batch: int = 1 << min(6, int(math.log2(max(1.0, rows * n_epochs / 100))))
    return max(batch, min(recipe.method.smallest_batch, rows))


def auto_learning_rate(technique: TechniqueBase | type[TechniqueBase], method: MethodBase | type[MethodBase]) -> float:
    if technique.whole_model and method.full_learning_rate is not None:
        return method.full_learning_rate
    return technique.default_learning_rate * method.learning_rate_factor


def _interval(requested: int | Literal["auto"], total_steps: int) -> int:
    """Return the interval in steps; "auto" is a tenth of the training."""
    return max(1, total_steps // 10) if requested == AUTO else requested


MIN_ROW_TOKENS = 8
"""Minimum of `training.max_length`."""


def max_row_tokens(method: Method, technique: Technique, context_window: int) -> int:
    """Return the maximum number of tokens of a row: the context window minus the technique's virtual tokens and the
    tokens of a sampled answer."""
    rollout = method.rollout_options
    return context_window - technique.virtual_tokens - (rollout.max_tokens if rollout else 0)


def resolve_max_length(recipe: Recipe, *, longest_row: int, context_window: int) -> int:
    """Return the maximum number of tokens of an example.

    This limit is resolved before the other fields, because rows beyond it may be dropped and the other "auto" values
    depend on the remaining rows.
    """
    requested = recipe.training.max_length
    limit = max_row_tokens(recipe.method, recipe.technique, context_window)
    return min(longest_row if requested == AUTO else requested, limit)


def warn_of_max_length(recipe: Recipe, context_window: int) -> str | None:
    """Return a warning if rows of `training.max_length` tokens do not fit into the context; None if they fit."""
    requested = recipe.training.max_length
    limit = max_row_tokens(recipe.method, recipe.technique, context_window)
    if requested == AUTO or requested <= limit:
        return None
    return f"training.max_length is {requested:,}, but {_limit_reason(limit, context_window)}: {limit:,} is used"


def advise_on_length(recipe: Recipe, max_length: int, context_window: int) -> str:
    """Return what to do if no row is left to train on at the resolved maximum length."""
    limit = max_row_tokens(recipe.method, recipe.technique, context_window)
    if max_length < limit:
        return "Raise training.max_length."
    reason = _limit_reason(limit, context_window)
    return f"{reason[0].upper()}{reason[1:]}: shorten the rows, or choose a base with a longer context."


def _limit_reason(limit: int, context_window: int) -> str:
    if limit == context_window:
        return f"the base model's context is {context_window:,} tokens"
    return f"the base model's context of {context_window:,} tokens leaves {limit:,} for a row"
