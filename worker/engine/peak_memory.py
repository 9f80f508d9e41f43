"""The most memory that a training took, and its processor time, by phase."""

import ctypes
import gc
import threading
import time
from pathlib import Path
from typing import Self

import torch


class PeakMemory:
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

    def beside(self, phase: str, other: int) -> None:
        """Note a phase in which another process held so many bytes beside what this one holds now."""
        self.by_phase[phase] = _now(self._device) + other

    @property
    def highest(self) -> int:
        return max(self.by_phase.values(), default=0)


class Highest:
    """The most memory that this process holds within a `with`: `bytes`. On a CPU it leaves out pages of files, which
    the kernel takes back when it needs them. The kernel keeps no maximum of the rest, so it is sampled."""

    EVERY_S = 0.02

    def __init__(self, device: torch.device) -> None:
        self._device, self.bytes = device, 0
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        _forget(self._device)
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._sampler.join()

    def _sample(self) -> None:
        on_gpu = self._device.type == "cuda"
        while not self._ended.is_set():
            self.bytes = max(self.bytes, _peak(self._device) if on_gpu else _status("RssAnon"))
            self._ended.wait(self.EVERY_S)


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
    return _status("VmHWM")  # not getrusage's maximum: a child's begins with that of the process that started it


def _now(device: torch.device) -> int:
    return int(torch.cuda.memory_allocated(device)) if device.type == "cuda" else _status("VmRSS")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"/proc/self/status names no {name}")


def _forget(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        print(f"the peak of memory cannot be reset: {error}", flush=True)
