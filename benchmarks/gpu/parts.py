"""What the parts of `python -m benchmarks.gpu` share: their command line, and the device."""

import argparse

import torch
from transformers.utils import logging

from worker.engine.determinism import use_deterministic_algorithms


def options_of(description: str | None, *more: str) -> argparse.Namespace:
    """Return the options of a part, without transformers' messages: `--small`, and text options of these names."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--small", action="store_true", help="a tiny model, to try the part on a CPU")
    for name in more:
        parser.add_argument(f"--{name}", default="")
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    use_deterministic_algorithms()
    return parser.parse_args()


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
