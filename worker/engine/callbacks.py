"""What happens beside the steps: evaluation, metrics, checkpoints, states, the best weights, early stopping."""

import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from api.spec.evaluation import Evaluation
from api.spec.lifecycle import FailureReason
from api.spec.resolve import ResolvedRecipe
from worker.engine.atomic_folder import atomic_folder, keep_newest
from worker.engine.checkpoint import (
    REFERENCES,
    Progress,
    load_state,
    optimizer_tensors,
    save_state,
    set_optimizer_tensors,
)
from worker.engine.data import Data
from worker.engine.errors import TrainingError
from worker.engine.identity import belongs, recipe_digest
from worker.engine.loop import StepResult
from worker.engine.objective import Objective
from worker.engine.out_of_memory import retry_with_smaller_batch
from worker.engine.publish.card import TrainingSummary
from worker.engine.publish.export import export
from worker.engine.publish.markdown import extend
from worker.engine.publish.provenance import origin_of, provenance
from worker.shared.arrays import Rows
from worker.shared.checkpoints import KEPT_CHECKPOINTS
from worker.shared.pipe import Pipe
from worker.shared.reports import CheckpointReport, MetricsReport, PhaseReport, StateReport


class Callbacks:
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
        for name in ("states", "checkpoints", "best"):
            (self._out / name).mkdir(parents=True, exist_ok=True)
        self._best: Path | None = None
        self._references = _keep_references(data, self._out)
        self._saved_step: int | None = None
        self._began = time.monotonic()
        self.last_metrics: dict[str, Any] = {}
        self.progress = self._resume() if (run / "resume").exists() else self._begin()

    def begin_step(self) -> None:
        self._began = time.monotonic()

    def end_step(self, result: StepResult) -> None:
        """Evaluate if due, report the step's one metrics report, then save what is due."""
        seconds = time.monotonic() - self._began
        recipe, progress = self._recipe, self.progress
        step, last = progress.step, progress.step == recipe.total_steps
        metrics: dict[str, Any] = {
            "step": step,
            "total_steps": recipe.total_steps,
            "epoch": step / recipe.steps_per_epoch,
            "train_loss": result.loss,
            **{f"train_{name}": value for name, value in result.metrics.items()},
            "learning_rate": result.learning_rate,
            "grad_norm": result.grad_norm,
            "tokens": result.tokens,
            "tokens_per_second": result.tokens / seconds,
        }
        if recipe.eval_every and (step % recipe.eval_every == 0 or last):
            metrics |= self._evaluate()
        epoch_ends = step % recipe.steps_per_epoch == 0 or last or progress.stopped_early
        if epoch_ends and len(self._data.validation):
            metrics |= self._evaluate_fully(metrics)
        extend(progress.train_curve, step, result.loss)
        if (valid := metrics.get("valid_loss", metrics.get("full_valid_loss"))) is not None:
            extend(progress.valid_curve, step, valid)
        self._pipe.report(MetricsReport.of(metrics))
        self.last_metrics = metrics
        if epoch_ends:
            self._save_checkpoint(metrics)
        if step % recipe.save_every == 0 and not last:
            self.save_state()

    def save_state(self) -> None:
        if self._saved_step == self.progress.step:
            return
        self._pipe.report(PhaseReport(phase="saving"))
        self.progress.method = dict(self._objective.state)
        optimizer = optimizer_tensors(self._optimizer, self._model.masters)
        path = save_state(
            self._out / "states",
            self.progress,
            dict(self._model.masters),
            optimizer,
            recipe_digest(self._run),
            best=self._best,
            references=self._references,
        )
        self._saved_step = self.progress.step
        self._pipe.report(StateReport(step=self.progress.step, path=str(path.relative_to(self._run))))
        self._pipe.report(PhaseReport(phase="training"))

    def take_best_weights(self) -> int:
        """Before publishing: the weights of the best evaluation, where the recipe asks for them. Returns their step."""
        best = self.progress.best_step
        if self._best is None or best is None:
            return self.progress.step
        if best != self.progress.step:
            self._model.set_weights(load_file(self._best))
        return best

    def release(self) -> None:
        """Free the optimizer's state and its hold on the trained weights. There is no further step."""
        self._optimizer.state.clear()
        self._optimizer.param_groups.clear()

    def summary(self, evaluation: Evaluation | None = None) -> TrainingSummary:
        """For the model card."""
        progress, origin = self.progress, origin_of(self._run, self._recipe.model)
        return TrainingSummary(self.last_metrics, progress.train_curve, progress.valid_curve, origin, evaluation)

    def _begin(self) -> Progress:
        return Progress(micro_batch_tokens=self._objective.budget_tokens)  # less than asked for, if preparing took less

    def _resume(self) -> Progress:
        state = load_state(self._run / "resume")
        if not belongs(state.recipe_digest, self._run):
            raise TrainingError(FailureReason.INTERNAL, "The saved state belongs to another recipe.")
        self._model.set_weights(state.weights)
        set_optimizer_tensors(self._optimizer, self._model.masters, state.optimizer)
        self._best, self._saved_step = state.best, state.progress.step
        self._objective.state = dict(state.progress.method)
        # Preparing, which every attempt does anew, may just have shown that there is less memory here than there was.
        state.progress.micro_batch_tokens = min(self._objective.budget_tokens, state.progress.micro_batch_tokens)
        self._objective.budget_tokens = state.progress.micro_batch_tokens
        return state.progress

    def _evaluate(self) -> dict[str, Any]:
        self._pipe.report(PhaseReport(phase="evaluating"))
        progress, recipe = self.progress, self._recipe
        found = self._evaluated(self._data.few_validation)
        loss = found["loss"]
        least = recipe.early_stopping.min_delta if recipe.early_stopping else 0.0
        # A gain smaller than min_delta is still the best so far; it only does not count as a reason to go on.
        before = math.inf if progress.patience_loss is None else progress.patience_loss
        gained = loss < before - least  # false for NaN
        if gained:
            progress.patience_loss = loss
        progress.evaluations_without_gain = 0 if gained else progress.evaluations_without_gain + 1
        if loss < (math.inf if progress.best_loss is None else progress.best_loss):
            progress.best_loss, progress.best_step = loss, progress.step
            if recipe.keep_best:
                self._keep_as_best()
        if recipe.early_stopping and progress.evaluations_without_gain >= recipe.early_stopping.patience:
            progress.stopped_early = True
        self._pipe.report(PhaseReport(phase="training"))
        return {f"valid_{name}": value for name, value in found.items()}

    def _evaluate_fully(self, metrics: dict[str, Any]) -> dict[str, Any]:
        few, every = self._data.few_validation, self._data.validation
        if len(few) == len(every) and "valid_loss" in metrics:
            return {f"full_{name}": value for name, value in metrics.items() if name.startswith("valid_")}
        self._pipe.report(PhaseReport(phase="evaluating"))
        found = self._evaluated(every)
        self._pipe.report(PhaseReport(phase="training"))
        return {f"full_valid_{name}": value for name, value in found.items()}

    def _evaluated(self, rows: Rows) -> dict[str, Any]:
        where = f"while evaluating after step {self.progress.step}"
        found = retry_with_smaller_batch(
            partial(self._objective.evaluate, rows), self._objective, rows, where, self._pipe.warn
        )
        self.progress.micro_batch_tokens = self._objective.budget_tokens
        return found

    def _keep_as_best(self) -> None:
        path = self._out / "best" / f"step-{self.progress.step:06d}.safetensors"
        weights = {name: master.detach().cpu().contiguous() for name, master in self._model.masters.items()}
        save_file(weights, path)
        if self._best is not None and self._best.parent == path.parent:
            self._best.unlink()
        self._best = path

    def _save_checkpoint(self, metrics: dict[str, Any]) -> None:
        progress = self.progress
        self._pipe.report(PhaseReport(phase="saving"))
        final = self._out / "checkpoints" / f"step-{progress.step:06d}"
        with atomic_folder(final, provenance(self._run, self._recipe, progress.step)) as folder:
            export(self._model, folder, self._run / "base", self._recipe, self.summary())
        loss = metrics.get("full_valid_loss")
        before = math.inf if progress.best_checkpoint_loss is None else progress.best_checkpoint_loss
        if loss is not None and loss < before:
            progress.best_checkpoint, progress.best_checkpoint_loss = final.name, loss
        best = None if progress.best_checkpoint is None else final.parent / progress.best_checkpoint
        keep_newest(final.parent, KEPT_CHECKPOINTS, besides=best)
        path = str(final.relative_to(self._run))
        self._pipe.report(CheckpointReport(step=progress.step, path=path, metrics=metrics))
        self._pipe.report(PhaseReport(phase="training"))


def _keep_references(data: Data, out: Path) -> Path | None:
    """Write what the method knows of the rows, which each attempt would otherwise compute again."""
    if not data.references:
        return None
    path = out / REFERENCES
    save_arrays(data.references, path)
    return path
