"""The machine's rate of matrix products, and the operations that a token's training needs."""

import statistics
import time
from pathlib import Path

import torch

from api.estimate.work import Base
from benchmarks.training.prepared import Prepared
from benchmarks.training.workloads import RANK
from worker.engine.model.facts import facts_of_base

ROWS, GPU_ROWS = 1024, 8192
"""Number of tokens in each measured product."""
PRODUCTS, GPU_PRODUCTS = 1, 20
"""Number of products in a row, since starting one on a GPU takes as long as computing a small one."""
REPEATS = 5


def matmul_rate(base: Path, threads: int) -> float:
    """Return FLOP/s of torch.matmul in bfloat16 over the shapes of the base model's matrices, each as often as the
    model has it."""
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    matrices = Base.of(facts_of_base(base)).matrices
    shapes = {(matrix.inputs, matrix.outputs) for matrix in matrices}
    rows = GPU_ROWS if device.type == "cuda" else ROWS
    seconds = {shape: _seconds(rows, *shape, device) for shape in shapes}
    flops = sum(2 * rows * matrix.inputs * matrix.outputs for matrix in matrices)
    return flops / sum(seconds[matrix.inputs, matrix.outputs] for matrix in matrices)


def _seconds(rows: int, inputs: int, outputs: int, device: torch.device) -> float:
    """Return the median time of a product [rows, inputs] @ [inputs, outputs]."""
    left, right = (
        torch.randn(shape, dtype=torch.bfloat16, device=device) for shape in ((rows, inputs), (inputs, outputs))
    )
    products = GPU_PRODUCTS if device.type == "cuda" else PRODUCTS
    times = []
    for _ in range(REPEATS + 1):
        begin = time.perf_counter()
        for _ in range(products):
            product = torch.matmul(left, right)
        float(product[0, 0])  # waits for a GPU
        times.append((time.perf_counter() - begin) / products)
    return statistics.median(times[1:])


def flops_per_token(prepared: Prepared) -> float | None:
    """Return the operations that LoRA needs for a token: two for each weight and pass.

    A frozen matrix needs two passes (forward, and backward to its input), a trained one three. The head is only needed
    at supervised tokens. Attention's products are left out, so that the share of the rate is a lower bound. None for
    methods that pass rows several times.
    """
    if prepared.workload.kind not in {"supervised", "classification"}:
        return None
    base = Base.of(facts_of_base(prepared.base))
    adapters = sum(RANK * (matrix.inputs + matrix.outputs) for matrix in base.matrices)
    head = 0.0 if base.encoder else base.head * prepared.supervised_share
    return 4 * (base.linear + head) + 6 * adapters
