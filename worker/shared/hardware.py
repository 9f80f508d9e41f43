"""The resources that this machine has for a job."""

import platform
import re
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

import psutil

from api.estimate.machine_fields import Machine
from api.estimate.stored import Observations
from worker.shared import cgroup, gpus

MAX_DEVICE = 128
"""Maximum number of characters of a device's name in the database."""


class WorkerResources(TypedDict):
    memory_bytes: int
    """Bytes of main memory for each job."""
    gpu_memory_bytes: int | None
    """Bytes of memory of the smallest GPU; None without a GPU."""
    bfloat16: bool
    """Whether all GPUs, or the processor if there is no GPU, multiply in bfloat16 at least as fast as in float32."""
    device: str | None
    """Model of the first GPU; of the processor if there is no GPU."""


def machine_for(gpu: str | None, *, slots: int = 1, observed: Observations | None = None) -> Machine:
    """Return the resources of the next job: on this GPU, or on the processor if `gpu` is None."""
    if gpu is None:
        memory = min(memory_for_job(slots=slots), available_bytes())
        return Machine(False, cpu_trains_in_bfloat16(), memory, observed)
    device = gpus.find_gpu(gpu)
    if device is None:  # a slice of a GPU (MIG); all GPUs that can be partitioned support bfloat16
        return Machine(True, True, None, observed)
    memories = [size for size in (device.total_bytes, device.free_bytes) if size is not None]
    if not memories:  # it shares the machine's memory
        memories = [memory_for_job(slots=slots), available_bytes()]
    return Machine(True, device.bfloat16, min(memories), observed)


def worker_resources(gpu_names: list[str], *, slots: int) -> WorkerResources:
    """Return the resources of a job in any slot, as arguments of `api.records.workers.register`."""
    known = [gpu for gpu in map(gpus.find_gpu, gpu_names) if gpu is not None]
    bfloat16 = all(gpu.bfloat16 for gpu in known) if gpu_names else cpu_trains_in_bfloat16()
    smallest = min((gpu.total_bytes for gpu in known if gpu.total_bytes is not None), default=None)
    memory = memory_for_job(slots=slots)
    device = next((gpu.model for gpu in known), None) if gpu_names else _processor_model()
    return WorkerResources(memory_bytes=memory, gpu_memory_bytes=smallest, bfloat16=bfloat16, device=device)


def cpu_trains_in_bfloat16() -> bool:
    """Return whether large products are at least as fast in bfloat16 as in float32. Intel's processors with AVX512-BF16
    but without AMX (as a virtual machine may show them) need twice float32's time (docs/engine-log.md)."""
    facts = _processor()
    return "amx_bf16" in facts or ("avx512_bf16" in facts and "GenuineIntel" not in facts)


def cpu_multiplies_bfloat16() -> bool:
    """Return whether products of a few rows are faster in bfloat16, whose weights are half as large, than in float32.
    Processors without instructions for bfloat16 emulate it and are several times slower than in float32."""
    facts = _processor()
    return "avx512_bf16" in facts or "amx_bf16" in facts


def _processor_model() -> str | None:
    found = re.search(r"^model name\s*: (.+)$", _processor(), re.MULTILINE)
    return found[1][:MAX_DEVICE] if found else platform.machine() or None


@lru_cache
def _processor() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def memory_bytes() -> int:
    """Return the machine's memory, or the limit of this process's control groups if that is lower."""
    total, limit = int(psutil.virtual_memory().total), cgroup.limit_bytes()
    return total if limit is None else min(total, limit)


def available_bytes() -> int:
    """Return how much of `memory_bytes` is free now."""
    available, left = int(psutil.virtual_memory().available), cgroup.available_bytes()
    return available if left is None else min(available, left)


def memory_for_job(*, slots: int) -> int:
    """Return a job's share of the memory: the memory that this process does not use, divided equally among the slots.
    Memory that the trainer shares with the fork server, such as imported libraries, counts as the trainer's."""
    own = int(psutil.Process().memory_info().rss)
    return max(0, (memory_bytes() - own) // slots)
