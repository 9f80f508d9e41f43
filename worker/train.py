"""The trainer, behind the wall: `python -m worker.train RUN_DIR`, or `--wait` to be handed a run folder later.

It reads the run folder, trains, writes into it, and reports on a pipe (docs/internals). It knows no database, no
storage and no secret. Run it by hand to see what it does.
"""

import faulthandler
import os
import signal
import sys
import traceback
from pathlib import Path

import worker.engine.openmp  # noqa: F401  (before torch)

# isort: split
import torch

from api.estimate.machine import resolve_hardware_auto
from api.spec.lifecycle import FailureReason
from api.spec.resolve import ResolvedRecipe
from worker.engine.callbacks import Callbacks
from worker.engine.checkpoint import load_references
from worker.engine.comparison import Comparison
from worker.engine.data import Data, load_data
from worker.engine.errors import Stopped, TrainingError, as_training_error
from worker.engine.loop import Loop, has_diverged
from worker.engine.model.facts import facts_of_base
from worker.engine.model.load import load_trainable
from worker.engine.optimizer import adamw
from worker.engine.peak_memory import PeakMemory, give_back
from worker.engine.publish.gguf import require_exportable
from worker.engine.publish.publish import publish
from worker.methods import METHODS, MethodContext, Objective
from worker.shared import memory_overrides
from worker.shared.counts import workload
from worker.shared.gpus import visible_gpus
from worker.shared.hardware import machine_for
from worker.shared.pipe import Pipe
from worker.shared.reports import DoneReport, ErrorReport, PhaseReport, StoppedReport
from worker.shared.torch_version import require_torch


def train(run: Path, pipe: Pipe) -> None:
    """Load, train step by step, publish. Raises Stopped, TrainingError."""
    pipe.report(PhaseReport(phase="loading"))
    recipe = ResolvedRecipe.model_validate_json((run / "recipe.json").read_bytes())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peaks = PeakMemory(device)
    peaks.begin("loading")
    if recipe.gguf is not None:
        require_exportable(run / "base")
    data = load_data(run / "data", recipe)
    machine = machine_for(next(iter(visible_gpus()), "0") if device.type == "cuda" else None)
    recipe = resolve_hardware_auto(recipe, facts_of_base(run / "base"), machine, workload(data.train))
    attempted = memory_overrides.read(run, recipe)
    start = run / "start"
    model = load_trainable(
        run / "base", attempted, device, start=start if start.exists() else None, opening=data.train.tokens
    )
    give_back()  # what reading the base in another type took: the steps would find it scattered in the heap
    model.keep_alive = pipe.alive
    peaks.begin("training")
    objective = METHODS[recipe.method.type](MethodContext(attempted, run, model, pipe.report))
    # With the weights of step 0, even where an interrupted training goes on.
    data = data.prepared(objective, pipe.warn, load_references(run / "resume"))
    comparison = Comparison(recipe, data, objective, pipe)
    comparison.before()
    milestones = run_steps(run, recipe, data, objective, pipe)
    step = milestones.take_best_weights()
    milestones.release()
    evaluation = comparison.after()
    peaks.begin("exporting")
    progress, summary = milestones.progress, milestones.summary(evaluation)
    scoring_bytes = publish(run, recipe, data, objective, summary, pipe, step=step, first_loss=progress.first_loss)
    peaks.end()
    if scoring_bytes:
        peaks.beside("publishing", scoring_bytes)
    pipe.report(
        DoneReport(
            step=progress.step,
            best_step=progress.best_step,
            trained_tokens=progress.trained_tokens,
            path="out/model",
            evaluation=None if evaluation is None else evaluation.model_dump(mode="json"),
            peak_bytes=peaks.highest,
            peaks=peaks.by_phase,
            processor_s=peaks.processor_s,
            device=device.type,
        )
    )


def run_steps(run: Path, recipe: ResolvedRecipe, data: Data, objective: Objective, pipe: Pipe) -> Callbacks:
    optimizer = adamw(objective.model.masters, recipe)
    milestones = Callbacks(run, recipe, data, objective, optimizer, pipe)
    progress = milestones.progress
    loop = Loop(recipe, objective.model, objective, optimizer, data.train, progress, pipe.warn)
    pipe.report(PhaseReport(phase="training"))
    while progress.step < recipe.total_steps and not progress.stopped_early:
        if pipe.stopping:
            milestones.save_state()
            raise Stopped(progress.step)
        milestones.begin_step()
        result = loop.step()
        diverged = has_diverged(result, progress, objective.highest_loss(progress.first_loss))
        milestones.end_step(result)  # evaluates, reports the metrics, saves a checkpoint and a state where one is due
        if diverged:
            raise TrainingError(FailureReason.DIVERGED)
    return milestones


def main() -> int:
    require_torch()
    faulthandler.register(signal.SIGUSR1)  # a supervisor that thinks us hung asks for our stacks
    pipe = Pipe()
    run = sys.argv[1] if len(sys.argv) == 2 else None
    if run is None:
        sys.exit("usage: python -m worker.train RUN_DIR | --wait")
    if run == "--wait":
        run = pipe.wait_for_run()
        if run is None:
            return 0
        log_to(Path(run) / "log.txt")
    pipe.listen()
    torch.use_deterministic_algorithms(True, warn_only=True)  # a resumed run repeats the interrupted one
    try:
        train(Path(run), pipe)
    except Stopped as stopped:
        pipe.report(StoppedReport(step=stopped.step))
    except Exception as error:  # whatever it was: the log gets all of it, the user a sentence
        traceback.print_exc()
        failure = as_training_error(error)
        pipe.report(ErrorReport(reason=failure.reason, message=failure.message))
        return 1
    return 0


def log_to(path: Path) -> None:
    """A warm process was started before its run folder existed; what libraries print belongs there."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
