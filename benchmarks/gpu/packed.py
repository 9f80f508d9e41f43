"""Is the packed path right on this device?"""

from pathlib import Path

import torch

from api.estimate.work import PACKED_FAMILIES
from benchmarks.gpu.rows import random_rows, recipe_for
from tests.tiny_models import make_model
from worker.engine.model.batches import Layout, micro_batches, total_weight
from worker.engine.model.load import load_trainable
from worker.engine.model.trainable import TrainableModel
from worker.methods.supervised import loss as supervised_loss
from worker.shared.arrays import Rows


def packed(folder: Path, device: torch.device) -> None:
    """Loss and gradients of a packed batch against the same examples one by one, on the same device."""
    print("\nfamily     precision  |loss difference|  worst ‖Δ‖/‖g‖   (packed against one by one)")
    rows = random_rows([5, 31, 17, 8, 24, 3], 250)
    for family in sorted(PACKED_FAMILIES):
        base = make_model(folder / family, family=family, seed=0)
        for precision in ("float32", "bfloat16"):
            model = load_trainable(base, recipe_for("full", rows, precision, 4096), device)
            packed, packed_gradients = gradients(model, rows, model.layout)
            alone, gradients_alone = gradients(model, rows, Layout(packed=model.layout.packed, single_row=True))
            worst = max(
                float((mine - theirs).norm() / theirs.norm().clamp_min(1e-12))
                for mine, theirs in zip(packed_gradients, gradients_alone, strict=True)
            )
            print(f"{family:10} {precision:9}  {abs(packed - alone):17.2e}  {worst:14.2e}", flush=True)


def gradients(model: TrainableModel, rows: Rows, layout: Layout) -> tuple[float, list[torch.Tensor]]:
    weight, total = total_weight(rows), 0.0
    parameters = [*model.trained.values(), *model.masters.values()]  # the gradient is with the master, if there is one
    for parameter in parameters:
        parameter.grad = None
    for batch in micro_batches(rows, 4096, layout, model.device):
        scores = model.token_scores(batch)
        loss, _ = supervised_loss(scores.smoothed_logprobs, scores.hits, batch.weights, weight)
        loss.backward()
        total += loss.item()
    return total, [each.grad.float().clone() for each in parameters if each.grad is not None]
