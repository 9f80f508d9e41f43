"""The device of a child process: the GPU of its slot, or the processor."""

import os

import torch

from api.spec.lifecycle import FailureReason
from worker.engine.errors import TrainingError, print_traceback


def device_of_process() -> torch.device:
    """Return the GPU if there is one, else the processor.

    Raise TrainingError (worker_fault) if CUDA_VISIBLE_DEVICES names a GPU that torch cannot use, for example because
    its driver is too old: the job was planned for the GPU, and would take days on the processor.
    """
    if not os.environ.get("CUDA_VISIBLE_DEVICES"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (AssertionError, RuntimeError) as error:  # AssertionError: a torch without CUDA
        print_traceback(error)
        reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
        message = f"The worker's GPU cannot be used ({reason[:200]}). The operator can check it with `attune doctor`."
        raise TrainingError(FailureReason.WORKER_FAULT, message) from error
    return torch.device("cuda")
