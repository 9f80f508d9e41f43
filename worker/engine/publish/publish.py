"""Export a trained model and prove that its files are the model, before it is published."""

import math
import shutil
from pathlib import Path

from api.spec.evaluation import Evaluation
from api.spec.resolve import ResolvedRecipe
from worker.engine.atomic_folder import atomic_folder, write_manifest
from worker.engine.callbacks import Callbacks
from worker.engine.data import Data
from worker.engine.peak_memory import give_back
from worker.engine.publish.export import export, export_merged
from worker.engine.publish.fresh_process import reread
from worker.engine.publish.gguf import export_gguf
from worker.engine.publish.parity import (
    check_files,
    check_forward_parity,
    check_gguf,
    check_learned,
    check_merged,
    check_weights,
    learned_rows,
    outputs_in_memory,
    outputs_in_training,
    outputs_of_gguf,
    proof_rows,
    write_outputs,
)
from worker.engine.publish.provenance import provenance
from worker.methods import Objective
from worker.shared.pipe import Pipe
from worker.shared.reports import PhaseReport


def publish(
    run: Path,
    recipe: ResolvedRecipe,
    data: Data,
    objective: Objective,
    milestones: Callbacks,
    pipe: Pipe,
    evaluation: Evaluation | None = None,
) -> int:
    """Export to out/model. It appears there only once its files are proved to be the model that was trained. Return the
    bytes of the process that read them."""
    pipe.report(PhaseReport(phase="exporting"))
    model, base = objective.model, run / "base"
    step = milestones.take_best_weights()
    check_weights(model)
    rows = proof_rows(data.validation if len(data.validation) else data.train)
    path = outputs_in_training(model, recipe, rows)
    highest_loss = objective.highest_loss(milestones.progress.first_loss)
    if math.isfinite(highest_loss):
        check_learned(model, learned_rows(data.train), highest_loss)
    made = provenance(run, recipe, step)
    with atomic_folder(run / "out" / "model", made) as folder:
        export(model, folder, base, recipe, milestones.story(evaluation))
        memory, device = outputs_in_memory(model, recipe, rows), model.device
        check_forward_parity(path, memory, str(recipe.precision))
        milestones.release()
        model.release()  # the base is loaded once more, and two might not fit
        give_back()
        wanted = recipe.merged or recipe.gguf is not None
        merged = export_merged(folder, base, recipe) if wanted and recipe.technique.merges else None
        give_back()  # what merging took
        found = reread(folder, merged, base, recipe, rows, device, pipe.alive)
        check_files(memory, found.files, recipe)
        if merged is not None and found.merged is not None:
            check_merged(memory, found.merged, merged, recipe)
        if recipe.gguf is not None:
            file = export_gguf(merged or folder, folder, recipe)
            check_gguf(memory, outputs_of_gguf(file, merged or folder, rows, recipe), recipe)
            write_manifest(file.parent, made.model_copy(update={"kind": "gguf"}))
        if merged is not None and recipe.merged:
            write_outputs(merged, rows, memory, recipe, merged=True)
            write_manifest(merged, made.model_copy(update={"kind": "model"}))
        elif merged is not None:
            shutil.rmtree(merged)
        write_outputs(folder, rows, memory, recipe)
    return found.peak_bytes
