"""The most memory that a training took, and its processor time, by phase."""

import ctypes
import gc
import time
from pathlib import Path

import torch


class Peaks:
    """Bytes: on a GPU what torch had allocated at most, else the process's largest resident set.

    `begin` ends the phase before. Where the kernel lets a process forget its largest resident set (proc(5),
    /proc/self/clear_refs), each phase has its own; elsewhere a phase's is the largest so far.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._phase = device, ""
        self.by_phase: dict[str, int] = {}
        self.processor_s: dict[str, float] = {}
        """Of this process, all threads together; what came before the first phase is not in it."""
        self._processor_s = 0.0

    def begin(self, phase: str) -> None:
        self.end()
        self._phase, self._processor_s = phase, time.process_time()
        _forget(self._device)

    def end(self) -> None:
        if self._phase:
            self.by_phase[self._phase] = _peak(self._device)
            self.processor_s[self._phase] = time.process_time() - self._processor_s

    @property
    def highest(self) -> int:
        return max(self.by_phase.values(), default=0)


def give_back() -> None:
    """Return to the operating system what was freed. The C library's heap keeps it otherwise, and a process that loads
    the base anew beside this one may lack it (docs/engine-log.md). glibc alone has a call for that."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    # Not getrusage's maximum: a child's begins with that of the process that started it.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("/proc/self/status names no VmHWM")


def _forget(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        print(f"the peak of memory cannot be reset: {error}", flush=True)
