"""Exceptions that end a training early, and the messages that users see."""

import errno
import os
import traceback
from contextlib import suppress

import torch
from safetensors import SafetensorError

from api.spec.lifecycle import FAILURES, FailureReason


class TrainingError(Exception):
    """The training has failed. The user reads `message`, so it contains no paths and no text of other exceptions."""

    def __init__(self, reason: FailureReason, message: str | None = None) -> None:
        """If `message` is None, the user reads the general sentence for the reason."""
        self.reason = reason
        self.message = message or FAILURES[reason].sentence
        super().__init__(f"{reason.value}: {self.message}")


def print_traceback(error: BaseException) -> None:
    """Write the error's traceback to the log. A full disk loses the traceback, but not the report that follows it."""
    with suppress(OSError):
        traceback.print_exception(error)


class Stopped(Exception):
    """The training was stopped by a pause or stop command, by SIGTERM, or by the parent's death. Its state is saved."""

    def __init__(self, step: int) -> None:
        self.step = step
        super().__init__(f"stopped after step {step}")


OUT_OF_MEMORY_MESSAGES = (
    "can't allocate memory",  # torch's CPU allocator
    "not enough memory",  # the same on Windows
    "Cannot allocate memory",  # the operating system's ENOMEM, as safetensors writes it
    "std::bad_alloc",
    "out of memory",  # "CUDA error: out of memory", bitsandbytes' "Error out of memory"
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "cudaErrorMemoryAllocation",
)
"""Messages of libraries that have no exception class for lack of memory. cuBLAS and cuDNN allocate memory of their own,
outside of torch's allocator."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed, on the GPU or in the machine's own memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    from_library = isinstance(error, (RuntimeError, OSError, SafetensorError))
    return from_library and any(message in str(error) for message in OUT_OF_MEMORY_MESSAGES)


GPU_FAULTS = (
    "CUDA driver version is insufficient for CUDA runtime version",
    "CUDA-capable device(s) is/are busy or unavailable",
    "hardware stack error",
    "no CUDA-capable device is detected",
    "no kernel image is available for execution on the device",
    "system not yet initialized",
    "the launch timed out and was terminated",
    "uncorrectable ECC error encountered",
    "uncorrectable NVLink error detected during the execution",
)
"""CUDA's messages that blame the GPU, its driver or its use by another program, never the job."""


def is_gpu_error(error: BaseException) -> bool:
    """Return whether CUDA reported an error other than exhausted memory. The process cannot use CUDA afterwards."""
    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)


def as_training_error(error: Exception) -> TrainingError:
    """Return the TrainingError that is reported to the user for this exception."""
    if isinstance(error, TrainingError):
        return error
    if is_out_of_memory(error):
        return TrainingError(FailureReason.OUT_OF_MEMORY)
    if is_gpu_error(error):
        return _as_gpu_error(error)
    if _is_disk_full(error):
        return TrainingError(FailureReason.DISK_FULL)
    return TrainingError(FailureReason.INTERNAL)


def _as_gpu_error(error: Exception) -> TrainingError:
    what = str(error).partition("\n")[0].removeprefix("CUDA error: ")[:200]
    if any(fault in what for fault in GPU_FAULTS):
        return TrainingError(FailureReason.WORKER_FAULT, f"The worker's GPU failed: {what}")
    message = f"The GPU reported an error: {what}. The worker's log has the details under the job's id; the kernel's "
    message += "log of that machine (dmesg, lines with Xid) may name a fault of the GPU."
    return TrainingError(FailureReason.INTERNAL, message)


_DISK_FULL_CODES = (errno.ENOSPC, errno.EDQUOT)


def _is_disk_full(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _DISK_FULL_CODES
    # Libraries in native code (safetensors, torch) report the operating system's error as text.
    return any(f"os error {code})" in str(error) or os.strerror(code) in str(error) for code in _DISK_FULL_CODES)
