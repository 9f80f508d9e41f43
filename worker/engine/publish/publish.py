"""Export of a trained model, and the checks before publication, which prove that the files reproduce the model."""

import math
import shutil
from pathlib import Path

import torch

from api.spec.manifest import Provenance
from api.spec.resolve import ResolvedRecipe
from api.spec.scoring import ModelFiles, ScoringRequest
from worker.engine.data import Data
from worker.engine.memory.heap import trim_heap
from worker.engine.publish.card import TrainingSummary
from worker.engine.publish.export import export
from worker.engine.publish.fresh_process import score_in_fresh_process
from worker.engine.publish.gguf import export_gguf
from worker.engine.publish.merge import export_merged
from worker.engine.publish.outputs import (
    Outputs,
    outputs_in_memory,
    outputs_in_training,
    outputs_of_gguf,
    parity_rows,
    write_outputs,
)
from worker.engine.publish.parity import (
    check_files,
    check_forward_parity,
    check_gguf,
    check_learned,
    check_merged,
    check_weights,
    loss_on_training_rows,
    tolerance_elsewhere,
)
from worker.engine.publish.provenance import provenance
from worker.engine.saving.atomic_folder import atomic_folder, write_manifest
from worker.methods import Objective
from worker.shared.arrays import Rows
from worker.shared.pipe import Pipe
from worker.shared.reports import PhaseReport


def publish(
    run: Path,
    recipe: ResolvedRecipe,
    data: Data,
    objective: Objective,
    summary: TrainingSummary,
    pipe: Pipe,
    *,
    step: int,
    first_loss: float | None,
) -> int:
    """Export the weights in memory, which are the weights of `step`, to out/model, and free them. Raises TrainingError
    if a check fails.

    The folder appears only after its files have reproduced the trained model's outputs. `first_loss`: the loss of the
    first training step, for `Objective.divergence_threshold`. Returns the peak memory, in bytes, of the process that
    scored the files; 0 if there was none.
    """
    pipe.report(PhaseReport(phase="exporting"))
    model, base = objective.model, run / "base"
    check_weights(model)
    rows = parity_rows(data.validation if len(data.validation) else data.train)
    exact = recipe.precision == "float32"  # otherwise FORWARD_TOLERANCE proves nothing
    in_training = outputs_in_training(model, recipe, rows) if exact else None
    threshold = objective.divergence_threshold(first_loss)
    if math.isfinite(threshold):
        check_learned(loss_on_training_rows(objective, data.train, summary.evaluation), threshold)
    folder_provenance = provenance(run, recipe, step)
    with atomic_folder(run / "out" / "model", folder_provenance) as folder:
        export(model, folder, base, recipe, summary)
        memory, device = outputs_in_memory(model, recipe, rows), str(model.device)
        if in_training is not None:
            check_forward_parity(in_training, memory, recipe)
        model.release()  # the next steps load the base model again, and memory may not hold it twice
        trim_heap()
        needs_merged = recipe.merged or recipe.gguf is not None
        merged = None
        if needs_merged and recipe.technique.merges:
            merged = export_merged(folder, base, recipe, torch.device(device))
            trim_heap()
        pipe.report(PhaseReport(phase="verifying"))
        request = _scoring_request(folder, merged, base, recipe, rows, device)
        (by_files, *by_merged), peak_bytes = score_in_fresh_process(request, pipe.alive)
        check_files(memory, by_files, recipe)
        if merged is not None:
            check_merged(memory, by_merged[0], merged, recipe)
        if recipe.gguf is not None:
            _publish_gguf(merged or folder, folder, recipe, rows, memory, folder_provenance)
        if merged is not None and recipe.merged:
            write_outputs(merged, rows, memory, recipe, tolerance_elsewhere(memory, recipe, merged=True))
            write_manifest(merged, folder_provenance.model_copy(update={"kind": "model"}))
        elif merged is not None:
            shutil.rmtree(merged)
        write_outputs(folder, rows, memory, recipe, tolerance_elsewhere(memory, recipe))
    return peak_bytes


def _scoring_request(
    folder: Path, merged: Path | None, base: Path, recipe: ResolvedRecipe, rows: Rows, device: str
) -> ScoringRequest:
    """Return a request for the outputs of the exported files, and of the merged weights if there are any."""
    on_base = None if recipe.technique.whole_model else str(base.resolve())
    models = [ModelFiles(folder=str(folder), base=on_base, recipe=recipe)]
    if merged is not None:
        models.append(ModelFiles(folder=str(merged), recipe=recipe))
    return ScoringRequest(models=models, rows=[tokens_T.tolist() for tokens_T, _ in rows], device=device)


def _publish_gguf(
    model: Path, folder: Path, recipe: ResolvedRecipe, rows: Rows, memory: Outputs, folder_provenance: Provenance
) -> None:
    """Write the whole model as a GGUF file below `folder`. Raises TrainingError if the file does not give the model's
    outputs."""
    file = export_gguf(model, folder, recipe)
    check_gguf(memory, outputs_of_gguf(file, model, rows, recipe), recipe)
    write_manifest(file.parent, folder_provenance.model_copy(update={"kind": "gguf"}))
