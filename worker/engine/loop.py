"""One optimizer step, and one evaluation: micro-batches, gradients, what became of the loss."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from api.lifecycle import FailureReason
from api.recipe import ResolvedRecipe
from worker.arrays import Rows
from worker.engine import failpoint
from worker.engine.batches import micro_batches, rows_of_step, total_weight
from worker.engine.checkpoint import Progress
from worker.engine.model import TrainableModel
from worker.engine.optimizer import clipped_step, learning_rate
from worker.engine.stopping import TrainingError, out_of_memory
from worker.methods import METHODS

MAX_HALVINGS = 3
PATIENCE_STEPS = 3
"""So many steps in a row that are not finite, or far too high, and the training has diverged."""
NEAR_GUESSING = 0.95
MARGIN_NATS = 1.0
"""How much worse than guessing blindly (or than at the start, whichever is more) is far too high."""


@dataclass(frozen=True)
class StepResult:
    loss: float
    accuracy: float
    grad_norm: float
    learning_rate: float
    tokens: int


def take_step(
    model: TrainableModel,
    optimizer: torch.optim.AdamW,
    recipe: ResolvedRecipe,
    train: Rows,
    progress: Progress,
    warn: Callable[[str], None],
) -> StepResult:
    """Optimizer step `progress.step + 1`. Only its end waits for the device."""
    step = progress.step + 1
    rows = train.take(rows_of_step(len(train), recipe.batch_size, step, recipe.seed))
    sums = _accumulate_with_less_memory(model, recipe, rows, progress, warn)
    rate = learning_rate(recipe, step)
    norm = clipped_step(optimizer, recipe.max_grad_norm, rate)
    model.round_masters()
    loss, accuracy, grad_norm = torch.stack([*sums, norm]).tolist()
    progress.step, tokens = step, int(rows.lengths.sum())
    progress.trained_tokens += tokens
    return StepResult(loss, accuracy, grad_norm, rate, tokens)


def _accumulate_with_less_memory(
    model: TrainableModel, recipe: ResolvedRecipe, rows: Rows, progress: Progress, warn: Callable[[str], None]
) -> torch.Tensor:
    """`_accumulate`; when memory runs out, again from its beginning with half the micro-batch, and so on."""
    at_first = recipe.micro_batch_tokens
    assert at_first != "auto", "the micro-batch is resolved before the first step"
    rng = torch.get_rng_state(), torch.cuda.get_rng_state() if model.device.type == "cuda" else None
    while True:
        try:
            failpoint.reach(progress.step + 1)
            return _accumulate(model, recipe, rows, progress.micro_batch_tokens)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        _forget_gradients(model)
        halved = progress.micro_batch_tokens // 2
        if halved < at_first >> MAX_HALVINGS or halved == 0:
            raise TrainingError(FailureReason.OUT_OF_MEMORY, _memory_message(recipe, rows, progress))
        warn(f"Out of memory at step {progress.step + 1}: going on with micro-batches of {halved} tokens.")
        progress.micro_batch_tokens = halved
        torch.set_rng_state(rng[0])
        if rng[1] is not None:
            torch.cuda.set_rng_state(rng[1])


def _accumulate(model: TrainableModel, recipe: ResolvedRecipe, rows: Rows, budget_tokens: int) -> torch.Tensor:
    """Gradients of the step's whole loss, and [loss, accuracy] on the device."""
    weight = total_weight(rows)
    loss_of = METHODS[recipe.method.type].loss
    sums = torch.zeros(2, device=model.device)
    model.model.train()
    for batch in micro_batches(rows, budget_tokens, model.layout, model.device):
        logprobs_S, hits_S = model.logprobs(batch)
        loss, metrics = loss_of(logprobs_S, hits_S, batch.weights, weight)
        loss.backward()
        sums += torch.stack([loss.detach(), metrics["mean_token_accuracy"]])
    return sums


def _forget_gradients(model: TrainableModel) -> None:
    """Outside the `except`, so that the failed pass's activations are not kept alive by its traceback."""
    for parameters in (model.trained, model.masters):
        for parameter in parameters.values():
            parameter.grad = None
    if model.device.type == "cuda":
        torch.cuda.empty_cache()


def _memory_message(recipe: ResolvedRecipe, rows: Rows, progress: Progress) -> str:
    return (
        f"Training ran out of memory at step {progress.step + 1}, even with micro-batches of "
        f"{progress.micro_batch_tokens} tokens (first {recipe.micro_batch_tokens}); the longest example there has "
        f"{int(rows.lengths.max())} tokens. Lower training.max_length, or choose a smaller base model or technique."
    )


@torch.no_grad()
def evaluate(model: TrainableModel, recipe: ResolvedRecipe, rows: Rows, budget_tokens: int) -> tuple[float, float]:
    """(loss, accuracy) over all the rows, weighted as in training. Draws no random number."""
    weight = total_weight(rows)
    loss_of = METHODS[recipe.method.type].loss
    sums = torch.zeros(2, device=model.device)
    model.model.eval()
    for batch in micro_batches(rows, budget_tokens, model.layout, model.device):
        logprobs_S, hits_S = model.logprobs(batch)
        loss, metrics = loss_of(logprobs_S, hits_S, batch.weights, weight)
        sums += torch.stack([loss, metrics["mean_token_accuracy"]])
    loss_value, accuracy = sums.tolist()
    return loss_value, accuracy


def highest_loss(vocabulary: int, first_loss: float | None) -> float:
    """ln V is what guessing blindly costs: a model that is about there has lost what it knew. A base that begins there,
    or worse, is allowed a margin above its own beginning."""
    return max(NEAR_GUESSING * math.log(vocabulary), (first_loss or 0.0) + MARGIN_NATS)


def has_diverged(result: StepResult, progress: Progress, vocabulary: int) -> bool:
    """Count this step among the bad ones in a row, or end their row."""
    finite = math.isfinite(result.loss) and math.isfinite(result.grad_norm)
    if progress.first_loss is None and finite:
        progress.first_loss = result.loss
    progress.non_finite_steps = 0 if finite else progress.non_finite_steps + 1
    high = not finite or result.loss > highest_loss(vocabulary, progress.first_loss)
    progress.high_loss_steps = progress.high_loss_steps + 1 if high else 0
    return max(progress.non_finite_steps, progress.high_loss_steps) >= PATIENCE_STEPS
