"""What can only be known on a GPU: `python -m benchmarks.gpu.check`.

Random models only, so nothing has to be downloaded: a tiny one of every packed family, a tiny one for each technique
with each method, a Llama of 1.2 billion weights for the speed. `--device cpu --small` tries the script without a GPU.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from transformers.utils import logging

from benchmarks.gpu.packed import packed
from benchmarks.gpu.pairs import every_pair
from benchmarks.gpu.resume import resumed
from benchmarks.gpu.speed import speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a small model for the speed")
    parser.add_argument("--only", default="", help="pairs with this in their names, as: dpo")
    options = parser.parse_args()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    device = torch.device(options.device)
    print(f"torch {torch.__version__} on {torch.cuda.get_device_name() if device.type == 'cuda' else 'cpu'}")
    with tempfile.TemporaryDirectory() as folder:
        packed(Path(folder), device)
        resumed(Path(folder))
        every_pair(Path(folder), device, options.only)
        speed(Path(folder), device, small=options.small)


if __name__ == "__main__":
    main()
