"""Peak memory and processor time of a training, by phase."""

import threading
import time
from pathlib import Path
from typing import Self

import torch


class PeakMemory:
    """Records the peak memory of each phase, in bytes: on a GPU, the memory that torch has allocated; on a CPU, the
    process's resident set.

    `begin` ends the previous phase. If the kernel lets a process reset its peak (proc(5), /proc/self/clear_refs), each
    phase has a peak of its own. Otherwise, a phase's peak is the highest so far.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._phase = device, ""
        self.by_phase: dict[str, int] = {}
        self.processor_s: dict[str, float] = {}
        """Processor seconds of all threads of this process, by phase."""
        self._processor_start_s = 0.0

    def begin(self, phase: str) -> None:
        self.end()
        self._phase, self._processor_start_s = phase, time.process_time()
        _reset_peak(self._device)

    def end(self) -> None:
        if self._phase:
            self.by_phase[self._phase] = _peak(self._device)
            self.processor_s[self._phase] = time.process_time() - self._processor_start_s

    def add_child(self, phase: str, child_bytes: int) -> None:
        """Record a phase in which a child process took `child_bytes`, on top of this process's current memory."""
        self.by_phase[phase] = _current(self._device) + child_bytes

    @property
    def highest(self) -> int:
        return max(self.by_phase.values(), default=0)


class PeakSampler:
    """Measures the most memory that this process holds within a `with` block. `bytes` is the result.
    On a CPU it counts anonymous memory only, because the kernel can reclaim the pages of files when it needs memory.
    The kernel keeps no maximum of anonymous memory, so a thread samples it every EVERY_S.
    """

    EVERY_S = 0.02

    def __init__(self, device: torch.device) -> None:
        self._device, self.bytes = device, 0
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        _reset_peak(self._device)
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._sampler.join()

    def _sample(self) -> None:
        on_gpu = self._device.type == "cuda"
        while not self._ended.is_set():
            self.bytes = max(self.bytes, _peak(self._device) if on_gpu else _status_bytes("RssAnon"))
            self._ended.wait(self.EVERY_S)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return _status_bytes("VmHWM")  # not getrusage's maximum: a child inherits that of its parent


def _current(device: torch.device) -> int:
    return int(torch.cuda.memory_allocated(device)) if device.type == "cuda" else _status_bytes("VmRSS")


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"/proc/self/status has no line {name}")


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        print(
            f"Cannot reset the peak of memory: {error}. The next phase's peak includes the phases before.", flush=True
        )
