"""How a training ends before its end, and the sentence that its user reads."""

import errno
import os

import torch
from safetensors import SafetensorError

from api.spec.lifecycle import FAILURES, FailureReason


class TrainingError(Exception):
    """The training cannot go on. `message` is for the user: no paths, no text of other exceptions."""

    def __init__(self, reason: FailureReason, message: str | None = None) -> None:
        self.reason = reason
        self.message = message or FAILURES[reason].sentence
        super().__init__(f"{reason.value}: {self.message}")


class Stopped(Exception):
    """Pause, stop, SIGTERM or the parent's end: the state is saved."""

    def __init__(self, step: int) -> None:
        self.step = step
        super().__init__(f"stopped after step {step}")


NO_MEMORY = (
    "can't allocate memory",  # torch's allocator on a CPU: DefaultCPUAllocator
    "not enough memory",  # the same on Windows
    "Cannot allocate memory",  # the operating system's ENOMEM, as safetensors writes it
    "std::bad_alloc",
    "out of memory",  # "CUDA error: out of memory", bitsandbytes' "Error out of memory"
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "cudaErrorMemoryAllocation",
)
"""What libraries write that have no class for it. cuBLAS and cuDNN take memory of their own, past torch's allocator."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the GPU or in the machine's own memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    told = isinstance(error, (RuntimeError, OSError, SafetensorError))
    return told and any(each in str(error) for each in NO_MEMORY)


def as_training_error(error: Exception) -> TrainingError:
    """What any exception means to the user. The exception itself goes to the log."""
    if isinstance(error, TrainingError):
        return error
    if out_of_memory(error):
        return TrainingError(FailureReason.OUT_OF_MEMORY)
    if _disk_full(error):
        return TrainingError(FailureReason.DISK_FULL)
    return TrainingError(FailureReason.INTERNAL)


def _disk_full(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _NO_ROOM
    # Libraries in native code (safetensors, torch) report the operating system's error as text.
    return any(f"os error {number})" in str(error) or os.strerror(number) in str(error) for number in _NO_ROOM)


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
