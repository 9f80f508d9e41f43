"""Checkpoints: the model after an epoch, exported like the published one."""

import math
from contextlib import ExitStack
from pathlib import Path

from api.spec.resolve import ResolvedRecipe
from worker.engine.model.trainable import TrainableModel
from worker.engine.publish.card import TrainingSummary
from worker.engine.publish.export import export
from worker.engine.publish.provenance import provenance
from worker.engine.saving.atomic_folder import atomic_folder, keep_newest
from worker.engine.saving.background import Background
from worker.engine.saving.training_state import Progress
from worker.shared.kept_checkpoints import KEPT_CHECKPOINTS
from worker.shared.pipe import Pipe
from worker.shared.reports import CheckpointReport, Metrics, PhaseReport


class Checkpoints:
    """Writes the checkpoints of a training. Hashing files and waiting for the disk take long, so they run in a thread
    beside the training."""

    def __init__(self, run: Path, recipe: ResolvedRecipe, model: TrainableModel, pipe: Pipe) -> None:
        self._run, self._recipe, self._model, self._pipe = run, recipe, model, pipe
        self._folder = run / "out" / "checkpoints"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._background = Background("checkpoints")

    def save(self, progress: Progress, metrics: Metrics, summary: TrainingSummary) -> None:
        """Export the model, and note in `progress` if its validation loss is the lowest so far. A thread then waits
        until the disk has the files, removes older checkpoints, and reports this one."""
        self._pipe.report(PhaseReport(phase="saving"))
        final = self._folder / f"step-{progress.step:06d}"
        with self._pipe.working(), ExitStack() as stack:
            self._background.wait()
            folder = stack.enter_context(atomic_folder(final, provenance(self._run, self._recipe, progress.step)))
            export(self._model, folder, self._run / "base", self._recipe, summary)
            filled = stack.pop_all()
        loss = metrics.get("full_valid_loss")
        best_loss = math.inf if progress.best_checkpoint_loss is None else progress.best_checkpoint_loss
        if loss is not None and loss < best_loss:
            progress.best_checkpoint, progress.best_checkpoint_loss = final.name, loss
        best = None if progress.best_checkpoint is None else final.parent / progress.best_checkpoint
        report = CheckpointReport(step=progress.step, path=str(final.relative_to(self._run)), metrics=metrics)

        def finish() -> None:
            filled.close()
            keep_newest(final.parent, KEPT_CHECKPOINTS, keep=best)
            self._pipe.report(report)

        self._background.start(finish)
        self._pipe.report(PhaseReport(phase="training"))

    def wait(self) -> None:
        """Wait until the checkpoints are on the disk and reported."""
        self._background.wait()
