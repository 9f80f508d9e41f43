"""Callbacks around the steps: metrics, evaluation, early stopping, the best weights, checkpoints and saved states."""

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from api.spec.evaluation import Evaluation
from api.spec.fields import AUTO
from api.spec.lifecycle import FailureReason
from api.spec.resolve import ResolvedRecipe
from worker.engine.data import Data
from worker.engine.errors import TrainingError
from worker.engine.interruptible import interruptible
from worker.engine.loop import StepResult, has_diverged
from worker.engine.memory.out_of_memory import retry_with_smaller_batch
from worker.engine.objective import EvaluationMetrics, Objective
from worker.engine.publish.card import TrainingSummary
from worker.engine.publish.markdown import extend
from worker.engine.publish.provenance import origin_of
from worker.engine.saving.background import Background
from worker.engine.saving.checkpoints import Checkpoints
from worker.engine.saving.identity import matches_recipe, recipe_digest
from worker.engine.saving.training_state import (
    Progress,
    begin_state,
    load_state,
    optimizer_tensors,
    save_references,
    set_optimizer_tensors,
)
from worker.shared.arrays import Rows
from worker.shared.pipe import Pipe
from worker.shared.reports import Metrics, MetricsReport, PhaseReport, StateReport

SAVE_S = 180.0
"""Seconds between saved states if the recipe's `save_every` is "auto", or more (TRAINING_SHARE)."""
TRAINING_SHARE = 20.0
"""The interval is at least this many times as long as the writing of the previous state blocked the training, so that
large states cost 5 % of the time at most."""


class Callbacks:
    """The callbacks of one training. They must be created before the first step, because the constructor resumes from
    the run folder's saved state, if there is one."""

    def __init__(
        self,
        run: Path,
        recipe: ResolvedRecipe,
        data: Data,
        objective: Objective,
        optimizer: torch.optim.AdamW,
        pipe: Pipe,
    ) -> None:
        self._run, self._recipe, self._data, self._pipe = run, recipe, data, pipe
        self._objective, self._model, self._optimizer = objective, objective.model, optimizer
        self._out = run / "out"
        for name in ("states", "best"):
            (self._out / name).mkdir(parents=True, exist_ok=True)
        self._best: Path | None = None
        self._references = save_references(data.references, self._out)
        self._saved_step: int | None = None
        self._saved_at_s, self._blocked_s = time.monotonic(), 0.0
        self._state_is_due = False
        # Hashing files and waiting for the disk take long, so they run in threads beside the training.
        self._states = Background("states")
        self._checkpoints = Checkpoints(run, recipe, self._model, pipe)
        self._step_start_s = time.monotonic()
        self.progress = self._resume() if (run / "resume").exists() else self._start()

    def on_step_begin(self) -> None:
        self._step_start_s = time.monotonic()

    def on_step_made(self, result: StepResult) -> None:
        """Record the metrics of a step whose evaluation follows."""
        seconds = time.monotonic() - self._step_start_s
        self.progress.pending_metrics = {
            "step": self.progress.step,
            "total_steps": self._recipe.total_steps,
            "epoch": self.progress.step / self._recipe.steps_per_epoch,
            "train_loss": result.loss,
            **{f"train_{name}": value for name, value in result.metrics.items()},
            "learning_rate": result.learning_rate,
            "grad_norm": result.grad_norm,
            "tokens": result.tokens,
            "tokens_per_second": result.tokens / seconds,
        }

    def on_step_end(self) -> None:
        """Evaluate if it is due, report the step's metrics, then save a checkpoint and a state if they are due.

        Raise Interrupted if a pause or stop command comes during the evaluation. The next call repeats the evaluation,
        also after a resume.
        """
        recipe, progress, metrics = self._recipe, self.progress, self.progress.pending_metrics
        assert metrics is not None, "no step was made"
        step, last = progress.step, progress.step == recipe.total_steps
        due = recipe.eval_every and (step % recipe.eval_every == 0 or last)
        if due and "valid_loss" not in metrics:  # else only the evaluation of all rows was interrupted
            metrics |= self._evaluate()
        ends = last or progress.stopped_early
        epoch_ends = step % recipe.steps_per_epoch == 0 or ends
        if epoch_ends and len(self._data.validation):
            metrics |= self._evaluate_all_rows(metrics)
        progress.pending_metrics = None
        if self._saved_step == step:  # by an attempt that was stopped in this evaluation, which that state would repeat
            self._saved_step, self._state_is_due = None, True
        extend(progress.train_curve, step, metrics["train_loss"])
        if (valid := metrics.get("valid_loss", metrics.get("full_valid_loss"))) is not None:
            extend(progress.valid_curve, step, valid)
        self._pipe.report(MetricsReport.of(metrics))
        progress.last_metrics = metrics
        if epoch_ends:
            self._checkpoints.save(self.progress, metrics, self.summary())
        if self._must_save_state(ends) and not has_diverged(progress):
            if ends:  # an attempt that resumes from this state does not save the last checkpoint again
                self.finish_saving()
            self.save_state()

    def save_state(self) -> None:
        """Save all that a later attempt needs to resume after this step, unless this step's state is saved already.
        The files are written before this function returns. A thread then waits until the disk has them, and reports
        the state."""
        step = self.progress.step
        if self._saved_step == step:
            return
        with self._pipe.working():
            self._states.wait()
            begin_s = time.monotonic()
            self.progress.method = dict(self._objective.state)
            finish = begin_state(
                self._out / "states",
                self.progress,
                dict(self._model.masters),
                optimizer_tensors(self._optimizer, self._model.masters),
                recipe_digest(self._run),
                best=self._best,
                references=self._references,
            )
        self._saved_step, self._saved_at_s, self._state_is_due = step, time.monotonic(), False
        self._blocked_s = self._saved_at_s - begin_s
        self._states.start(partial(self._report_state, step, finish))

    @property
    def last_step_is_saved(self) -> bool:
        """Whether a later attempt needs to repeat no step."""
        return self._saved_step == self.progress.step

    def finish_saving(self) -> None:
        """Wait until states and checkpoints are on the disk and reported."""
        with self._pipe.working():
            self._states.wait()
            self._checkpoints.wait()

    def _must_save_state(self, ends: bool) -> bool:
        """Return whether to save a state after this step.

        If `save_every` is a number, a state is saved after each multiple of that number. If it is "auto", a state is
        due after an interval of SAVE_S, or more if writing blocks the training for long; at the end of an epoch, SAVE_S
        earlier. It is saved as soon as the disk has the previous one.

        `ends`: whether this is the last step. The state after it is for an interruption of the comparison or the
        publication. It is saved unless the previous one is so new that to train again from there is cheaper.
        """
        recipe, step = self._recipe, self.progress.step
        idle, age_s = self._states.idle(), time.monotonic() - self._saved_at_s
        interval_s = max(SAVE_S, TRAINING_SHARE * self._blocked_s)
        if ends:
            return self._state_is_due or age_s >= interval_s / 6
        if recipe.save_every != AUTO:
            return step % recipe.save_every == 0
        if age_s >= interval_s - (SAVE_S if step % recipe.steps_per_epoch == 0 else 0):
            self._state_is_due = True
        return self._state_is_due and idle

    def _report_state(self, step: int, finish: Callable[[], Path]) -> None:
        self._pipe.report(StateReport(step=step, path=str(finish().relative_to(self._run))))

    def load_best_weights(self) -> int:
        """Put the weights of the best evaluation into the model, if the recipe keeps them. Return the step that the
        model's weights now come from."""
        best_step = self.progress.best_step
        if self._best is None or best_step is None:
            return self.progress.step
        if best_step != self.progress.step:
            self._model.set_weights(load_file(self._best))
        return best_step

    def release(self) -> None:
        """Free the optimizer's state and its references to the weights. No step may follow."""
        self._optimizer.state.clear()
        self._optimizer.param_groups.clear()

    def summary(self, evaluation: Evaluation | None = None) -> TrainingSummary:
        """Return what the model card reports about the training."""
        progress, origin = self.progress, origin_of(self._run, self._recipe.model)
        return TrainingSummary(
            progress.last_metrics,
            progress.train_curve,
            progress.valid_curve,
            origin,
            evaluation,
            truncated=self._data.truncated,
        )

    def _start(self) -> Progress:
        return Progress(micro_batch_tokens=self._objective.budget_tokens)  # `prepare` may have lowered the budget

    def _resume(self) -> Progress:
        state = load_state(self._run / "resume")
        if not matches_recipe(state.recipe_digest, self._run):
            raise TrainingError(FailureReason.INTERNAL, "The saved state belongs to another recipe.")
        self._model.set_weights(state.weights)
        set_optimizer_tensors(self._optimizer, self._model.masters, state.optimizer)
        self._best = state.best
        self._saved_step = state.progress.step or None  # one of step 0 may lack log-probabilities of the reference
        self._objective.state = dict(state.progress.method)
        # Take the lower budget: this attempt's `prepare` may have run out of memory and halved its own.
        state.progress.micro_batch_tokens = min(self._objective.budget_tokens, state.progress.micro_batch_tokens)
        self._objective.budget_tokens = state.progress.micro_batch_tokens
        return state.progress

    def _evaluate(self) -> Metrics:
        """Return the metrics of a subset of the validation rows. The loss of the subset decides which weights are the
        best, and whether the training stops early."""
        self._pipe.report(PhaseReport(phase="evaluating"))
        progress, recipe = self.progress, self._recipe
        metrics = self._metrics_of(self._data.validation_subset)
        loss = metrics.loss
        # A gain below min_delta still makes the weights the best so far, but does not reset early stopping's patience.
        min_delta = recipe.early_stopping.min_delta if recipe.early_stopping else 0.0
        gained = loss < (math.inf if progress.patience_loss is None else progress.patience_loss) - min_delta
        if gained:  # never for NaN
            progress.patience_loss = loss
        progress.evaluations_without_gain = 0 if gained else progress.evaluations_without_gain + 1
        if loss < (math.inf if progress.best_loss is None else progress.best_loss):
            progress.best_loss, progress.best_step = loss, progress.step
            if recipe.keep_best:
                self._save_best_weights()
        if recipe.early_stopping and progress.evaluations_without_gain >= recipe.early_stopping.patience:
            progress.stopped_early = True
        self._pipe.report(PhaseReport(phase="training"))
        return {f"valid_{name}": value for name, value in metrics.by_name().items()}

    def _evaluate_all_rows(self, metrics: Metrics) -> Metrics:
        """Return the metrics of all validation rows. If the subset already contains all of them, its metrics are taken
        from `metrics`, the metrics of this step."""
        subset, validation = self._data.validation_subset, self._data.validation
        if len(subset) == len(validation) and "valid_loss" in metrics:
            return {f"full_{name}": value for name, value in metrics.items() if name.startswith("valid_")}
        self._pipe.report(PhaseReport(phase="evaluating"))
        full_metrics = self._metrics_of(validation)
        self._pipe.report(PhaseReport(phase="training"))
        return {f"full_valid_{name}": value for name, value in full_metrics.by_name().items()}

    def _metrics_of(self, rows: Rows) -> EvaluationMetrics:
        """Return the rows' metrics. Raise Interrupted after a pause or stop command."""
        where = f"while evaluating after step {self.progress.step}"
        act = partial(self._objective.evaluate, rows)
        with interruptible(self._model, self._pipe):
            metrics = retry_with_smaller_batch(act, self._objective, rows, where, self._pipe.warn)
        self.progress.micro_batch_tokens = self._objective.budget_tokens
        return metrics

    def _save_best_weights(self) -> None:
        path = self._out / "best" / f"step-{self.progress.step:06d}.safetensors"
        weights = {name: master.detach().cpu().contiguous() for name, master in self._model.masters.items()}
        save_file(weights, path)
        if self._best is not None and self._best.parent == path.parent:  # else it belongs to the saved state
            self._best.unlink()
        self._best = path
