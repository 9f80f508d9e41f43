"""The trainer, behind the wall: `python -m worker.train RUN_DIR`, or `--wait` to be handed a run folder later.

It reads the run folder, trains, writes into it, and reports on a pipe (docs/architecture.md). It knows no database, no
storage and no secret. Run it by hand to see what it does.
"""

import faulthandler
import hashlib
import os
import signal
import sys
import traceback
from pathlib import Path

import worker.engine.threads  # noqa: F401  (before torch)

# isort: split
import torch

from api.lifecycle import FailureReason
from api.recipe import ResolvedRecipe
from worker.engine.data import Data, load_data
from worker.engine.export import export
from worker.engine.facts import facts_of_base
from worker.engine.folders import whole_folder
from worker.engine.loop import has_diverged, take_step
from worker.engine.milestones import Milestones
from worker.engine.model import TrainableModel, load_trainable
from worker.engine.optimizer import adamw
from worker.engine.proof import (
    check_files,
    check_learned,
    check_path,
    check_weights,
    file_logprobs,
    memory_logprobs,
    path_logprobs,
    proof_rows,
    write_logprobs,
)
from worker.engine.stopping import Stopped, TrainingError, as_training_error
from worker.hardware import resolve_hardware
from worker.pipe import Pipe


def train(run: Path, pipe: Pipe) -> None:
    """Load, train step by step, publish. Raises Stopped, TrainingError."""
    pipe.report("phase", phase="loading")
    recipe = ResolvedRecipe.model_validate_json((run / "recipe.json").read_bytes())
    recipe = resolve_hardware(recipe, facts_of_base(run / "base"), gpu=torch.cuda.is_available())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = load_data(run / "data", recipe)
    model = load_trainable(run / "base", recipe, device)
    milestones = run_steps(run, recipe, data, model, pipe)
    publish(run, recipe, data, model, milestones, pipe)


def run_steps(run: Path, recipe: ResolvedRecipe, data: Data, model: TrainableModel, pipe: Pipe) -> Milestones:
    optimizer = adamw(model.masters, recipe)
    model.tick = pipe.alive
    milestones = Milestones(run, recipe, data, model, optimizer, pipe)
    progress = milestones.progress
    vocabulary = model.causal_lm.config.vocab_size
    pipe.report("phase", phase="training")
    while progress.step < recipe.total_steps and not progress.stopped_early:
        if pipe.stopping:
            milestones.save_state()
            raise Stopped(progress.step)
        milestones.begin_step()
        result = take_step(
            model, optimizer, recipe, data.train, progress, lambda text: pipe.report("warning", message=text)
        )
        diverged = has_diverged(result, progress, vocabulary)
        milestones.end_step(result)  # evaluates, reports the metrics, saves a checkpoint and a state where one is due
        if diverged:
            raise TrainingError(FailureReason.DIVERGED)
    return milestones


def publish(
    run: Path, recipe: ResolvedRecipe, data: Data, model: TrainableModel, milestones: Milestones, pipe: Pipe
) -> None:
    """Export to out/model. It appears there only once its files are proved to be the model that was trained."""
    pipe.report("phase", phase="exporting")
    milestones.take_best_weights()
    check_weights(model)
    rows = proof_rows(data.validation if len(data.validation) else data.train)
    path = path_logprobs(model, rows)
    check_learned(rows, path, model.causal_lm.config.vocab_size, milestones.progress.first_loss)
    precision, device = str(recipe.precision), model.device
    digest = hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()
    with whole_folder(run / "out" / "model", base=recipe.model, recipe_sha256=digest) as folder:
        export(model, folder, run / "base", recipe, milestones.last_metrics)
        memory = memory_logprobs(model, rows)
        check_path(path, memory, precision)
        model.release()  # the base is loaded once more, and two might not fit
        check_files(memory, file_logprobs(folder, run / "base", recipe, rows, device), precision)
        write_logprobs(folder, rows, memory, precision)
    progress = milestones.progress
    pipe.report(
        "done",
        step=progress.step,
        best_step=progress.best_step,
        trained_tokens=progress.trained_tokens,
        path="out/model",
    )


def main() -> int:
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
        pipe.report("stopped", step=stopped.step)
    except Exception as error:  # whatever it was: the log gets all of it, the user a sentence
        traceback.print_exc()
        failure = as_training_error(error)
        pipe.report("error", reason=failure.reason.value, message=failure.message)
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
