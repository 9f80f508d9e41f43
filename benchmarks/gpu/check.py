"""Checks that need a GPU: `python -m benchmarks.gpu.check`.

All models are random, so nothing is downloaded: a tiny one of every packed family, a tiny one for each technique with
each method, and a Llama of 1.2 billion weights for the speed. `--device cpu --small` runs the script without a GPU.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from transformers.utils import logging

from benchmarks.gpu.packed import check_packed
from benchmarks.gpu.pairs import check_pairs
from benchmarks.gpu.resume import check_resume
from benchmarks.gpu.speed import measure_speed
from worker.engine.determinism import use_deterministic_algorithms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="measure the speed of a small model")
    parser.add_argument("--only", default="", help="only the pairs whose name contains this, such as dpo")
    options = parser.parse_args()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    device = torch.device(options.device)
    use_deterministic_algorithms()
    print(f"torch {torch.__version__} on {torch.cuda.get_device_name() if device.type == 'cuda' else 'cpu'}")
    with tempfile.TemporaryDirectory() as folder:
        check_packed(Path(folder), device)
        check_resume(Path(folder))
        check_pairs(Path(folder), device, options.only)
        measure_speed(Path(folder), device, small=options.small)


if __name__ == "__main__":
    main()
