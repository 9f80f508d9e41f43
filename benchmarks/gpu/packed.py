"""Loss and gradients of packed batches against those of single rows: `python -m benchmarks.gpu.packed`."""

import sys
import tempfile
from pathlib import Path

import torch

from api.estimate.work import PACKED_FAMILIES
from benchmarks.gpu.parts import device, options_of
from benchmarks.gpu.rows import random_pairs, random_rows, recipe_for
from tests.tiny_models import make_model
from worker.engine.model.batches import Layout, micro_batches, total_weight
from worker.engine.model.load import load_trainable
from worker.engine.model.trainable import TrainableModel
from worker.methods.supervised import cross_entropy
from worker.shared.arrays import Rows

LIMITS = {"float32": 1e-4, "bfloat16": 0.1}
"""Largest relative difference of a gradient that counts as rounding."""


def main() -> None:
    options_of(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(not check_packed(Path(folder), device()))


def check_packed(folder: Path, device: torch.device) -> bool:
    """Print the differences between a packed batch and the same rows one by one, for each family, precision and kind of
    rows. The sequences of a packed pair share their prompt; one by one, they do not, and the layers are the libraries'
    own. Return whether all differences are within the limits."""
    good = True
    print("family      precision  rows   |loss difference|  worst ‖Δ‖/‖g‖   (packed against one by one)")
    kinds = {"rows": random_rows([5, 31, 17, 8, 24, 3], 250), "pairs": random_pairs([20, 40, 5], 6, 250)}
    for family in sorted(PACKED_FAMILIES):
        base = make_model(folder / family, family=family, seed=0)
        for precision in ("float32", "bfloat16"):
            for kind, rows in kinds.items():
                model = load_trainable(base, recipe_for("full", rows, precision, 4096), device)
                alone = Layout(packed=model.layout.packed, single_row=True)
                packed_loss, packed_gradients = gradients(model, rows, model.layout)
                model.restore_layers()
                single_loss, single_gradients = gradients(model, rows, alone)
                worst = max(
                    float((packed_gradient - single_gradient).norm() / single_gradient.norm().clamp_min(1e-12))
                    for packed_gradient, single_gradient in zip(packed_gradients, single_gradients, strict=True)
                )
                difference = abs(packed_loss - single_loss)
                within = max(difference, worst) <= LIMITS[precision]
                good &= within
                line = f"{family:11} {precision:9}  {kind:5}  {difference:17.2e}  {worst:14.2e}"
                print(line if within else f"{line}  TOO LARGE", flush=True)
    return good


def gradients(model: TrainableModel, rows: Rows, layout: Layout) -> tuple[float, list[torch.Tensor]]:
    weight, total = total_weight(rows), 0.0
    parameters = [*model.trained.values(), *model.masters.values()]  # a parameter with a master has its gradient there
    for parameter in parameters:
        parameter.grad = None
    for batch in micro_batches(rows, 4096, layout, model.device):
        scores = model.token_scores(batch)
        loss, _ = cross_entropy(scores.smoothed_logprobs, scores.correct, batch.weights, weight)
        loss.backward()
        total += loss.item()
    return total, [weight.grad.float().clone() for weight in parameters if weight.grad is not None]


if __name__ == "__main__":
    main()
