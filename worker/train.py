"""The trainer: `python -m worker.train RUN_DIR`.

It reads a run folder (recipe, rows, base model), trains, writes the model into the folder, and reports on a pipe. It
runs behind the wall: without database, storage or secrets (docs/internals/wall.md). To see it work, run it by hand.
"""

import faulthandler
import signal
import sys
from pathlib import Path

import worker.engine.openmp  # noqa: F401  (sets environment variables that torch reads when it loads)

# isort: split
import torch

from api.estimate.machine_fields import resolve_hardware_auto
from api.spec.evaluation import Evaluation
from api.spec.fields import AUTO
from api.spec.lifecycle import FailureReason
from api.spec.resolve import ResolvedRecipe
from worker.engine.callbacks import Callbacks
from worker.engine.comparison import Comparison
from worker.engine.data import Data, load_data
from worker.engine.determinism import use_deterministic_algorithms
from worker.engine.errors import Stopped, TrainingError, as_training_error, print_traceback
from worker.engine.loop import Loop, count_failed_steps, has_diverged
from worker.engine.memory.heap import trim_heap
from worker.engine.memory.peak_memory import PeakMemory
from worker.engine.model.device import device_of_process
from worker.engine.model.facts import facts_of_base
from worker.engine.model.load import load_trainable
from worker.engine.model.trainable import TrainableModel
from worker.engine.optimizer import adamw
from worker.engine.publish.fresh_process import fork_scorer
from worker.engine.publish.gguf import require_exportable
from worker.engine.publish.publish import publish
from worker.engine.reference_pass import compute_references
from worker.engine.saving.training_state import Progress, load_references
from worker.methods import METHODS, MethodContext, Objective
from worker.shared import memory_overrides
from worker.shared.counts import workload
from worker.shared.gpus import visible_gpus
from worker.shared.hardware import machine_for
from worker.shared.judgements import Interrupted, Judgements
from worker.shared.pipe import Pipe
from worker.shared.reports import DoneReport, ErrorReport, PhaseReport, StoppedReport
from worker.shared.torch_version import require_torch


def train(run: Path, pipe: Pipe) -> None:
    """Train the run folder's job, and write the model to publish. Raise Stopped after a pause or stop command, and
    TrainingError if the training fails."""
    pipe.report(PhaseReport(phase="loading"))
    device = device_of_process()
    peaks = PeakMemory(device)
    peaks.begin("loading")

    # Settings and data. Where precision, micro-batch or recomputation is "auto", it is chosen for this machine and
    # these rows. If an earlier attempt ran out of memory, less_memory.json holds overrides for this attempt. The
    # published manifest has the recipe without them.
    recipe = ResolvedRecipe.model_validate_json((run / "recipe.json").read_bytes())
    if recipe.gguf is not None:
        require_exportable(run / "base")  # otherwise the job would fail only after the training
    data = load_data(run / "data", recipe)
    recipe = resolve_on_this_machine(recipe, run / "base", data, device)
    attempt_recipe = memory_overrides.read(run, recipe)

    # Model: the base with the technique's weights on top. `start` holds the adapter that the job continues.
    start = run / "start"

    def load() -> TrainableModel:
        with pipe.working():  # a large base, or PiSSA's decomposition of each matrix, takes longer than any step
            parent = start if start.exists() else None
            return load_trainable(run / "base", attempt_recipe, device, start=parent, opening=data.train.tokens)

    model = load()
    trim_heap()  # the base may have been converted from another type, and the freed copies fragment the heap
    model.keep_alive = pipe.alive

    # Method. Even a resumed training prepares with the weights of step 0, because they are the reference of DPO and KTO
    # and the base model of the comparison. `run_steps` then loads the saved state's weights.
    peaks.begin("training")
    context = MethodContext(attempt_recipe, run, model, pipe.report, Judgements(pipe))
    with pipe.working():  # the method may load a reward model
        objective = METHODS[recipe.method.type](context)
    data = data.prepare(objective, load_references(run / "resume"))
    compute_references(run, data, objective, pipe)  # after a stop, `run_steps` saves what was computed, and stops
    if not recipe.technique.whole_model:  # a copy would be as large as the model, so the comparison loads it again
        model.snapshot_reference()

    # Loop.
    callbacks = run_steps(run, recipe, data, objective, pipe)
    step = callbacks.load_best_weights()
    callbacks.release()
    peaks.begin("comparing")
    comparison = Comparison(recipe, data, objective, pipe, load)
    evaluation = comparison.measure()
    if comparison.interrupted and callbacks.last_step_is_saved:
        raise Stopped(callbacks.progress.step)  # the next attempt repeats the comparison

    # Save.
    peaks.begin("exporting")
    progress, summary = callbacks.progress, callbacks.summary(evaluation)
    with pipe.working():
        child_bytes = publish(run, recipe, data, objective, summary, pipe, step=step, first_loss=progress.first_loss)
    peaks.end()
    if child_bytes:
        peaks.add_child("publishing", child_bytes)
    pipe.report(done_report(progress, evaluation, peaks, device))


def resolve_on_this_machine(recipe: ResolvedRecipe, base: Path, data: Data, device: torch.device) -> ResolvedRecipe:
    """Return the recipe without "auto". The supervisor has resolved every "auto", so only a trainer that is run by hand
    asks which resources this machine has."""
    if AUTO not in (recipe.precision, recipe.micro_batch_tokens, recipe.gradient_checkpointing):
        return recipe
    machine = machine_for(next(iter(visible_gpus()), "0") if device.type == "cuda" else None)
    return resolve_hardware_auto(recipe, facts_of_base(base), machine, workload(data.train))


def done_report(
    progress: Progress, evaluation: Evaluation | None, peaks: PeakMemory, device: torch.device
) -> DoneReport:
    return DoneReport(
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


def run_steps(run: Path, recipe: ResolvedRecipe, data: Data, objective: Objective, pipe: Pipe) -> Callbacks:
    """Train the recipe's remaining steps. Raise Stopped after a pause or stop command, and TrainingError if the loss
    diverges."""
    optimizer = adamw(objective.model.masters, recipe)
    with pipe.working():  # it hashes and loads the saved state
        callbacks = Callbacks(run, recipe, data, objective, optimizer, pipe)
    progress = callbacks.progress
    loop = Loop(recipe, objective.model, objective, optimizer, data.train, progress, pipe.warn)
    pipe.report(PhaseReport(phase="training"))
    try:
        while progress.pending_metrics or (progress.step < recipe.total_steps and not progress.stopped_early):
            if pipe.stopping:
                callbacks.save_state()
                raise Stopped(progress.step)
            try:
                if not progress.pending_metrics:  # else an attempt was stopped during this step's evaluation
                    callbacks.on_step_begin()
                    result = loop.step()
                    count_failed_steps(result, progress, objective.divergence_threshold(progress.first_loss))
                    callbacks.on_step_made(result)
                callbacks.on_step_end()  # also reports the metrics of a diverged step
            except Interrupted:
                continue  # `pipe.stopping` is set; the next attempt repeats the step, or its evaluation
            if has_diverged(progress):
                message = (
                    f"The loss diverged at step {progress.step}, so nothing was published. Try a learning rate below "
                    f"{recipe.learning_rate:g}."
                )
                raise TrainingError(FailureReason.DIVERGED, message)
    finally:
        callbacks.finish_saving()
    return callbacks


def main(*arguments: str) -> int:
    if len(arguments) != 1:
        sys.exit("usage: python -m worker.train RUN_DIR")
    require_torch()
    faulthandler.register(signal.SIGUSR1)  # the supervisor sends it to a hung trainer, to get the threads' stacks
    fork_scorer()  # first, while this process has a single thread and unchanged libraries
    pipe = Pipe()
    pipe.listen()
    use_deterministic_algorithms()
    try:
        train(Path(arguments[0]), pipe)
    except Stopped as stopped:
        pipe.report(StoppedReport(step=stopped.step))
    except Exception as error:  # the log gets the traceback, the user a sentence
        print_traceback(error)
        failure = as_training_error(error)
        pipe.report(ErrorReport(reason=failure.reason, message=failure.message))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
