"""What this machine has for a job. Torch-free, since the supervisor asks."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from api.estimate.machine import Machine
from worker.shared import cgroup, gpus

WARM_BYTES = 400 * 2**20
"""Of a trainer that waits with torch imported."""


def machine_for(
    gpu: str | None, *, slots: int = 1, warm: bool = False, observed: dict[str, Any] | None = None
) -> Machine:
    """What the next job has of this machine: of that GPU, or of the memory and the processor where it is None."""
    if gpu is None:
        memory = min(memory_for_job(slots=slots, warm=warm), available_bytes())
        return Machine(False, cpu_multiplies_bfloat16(), memory, observed)
    found = gpus.gpu_of(gpu)
    if found is None:  # a part of a GPU (MIG), which only those have that know bfloat16
        return Machine(True, True, None, observed)
    memories = [each for each in (found.total_bytes, found.free_bytes) if each is not None]
    return Machine(True, found.bfloat16, min(memories, default=None), observed)


def registered(gpu_names: list[str], *, slots: int, warm: bool) -> dict[str, Any]:
    """What every job has of this machine whichever slot it gets: as `api.records.workers.seen` takes it."""
    found = [gpu for gpu in map(gpus.gpu_of, gpu_names) if gpu is not None]
    bfloat16 = all(gpu.bfloat16 for gpu in found) if gpu_names else cpu_multiplies_bfloat16()
    smallest = min((gpu.total_bytes for gpu in found if gpu.total_bytes is not None), default=None)
    return {
        "memory_bytes": memory_for_job(slots=slots, warm=warm),
        "gpu_memory_bytes": smallest,
        "bfloat16": bfloat16,
    }


@lru_cache
def cpu_multiplies_bfloat16() -> bool:
    """Without instructions for it bfloat16 is emulated, several times slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def memory_bytes() -> int:
    """Of the machine, or what its control groups let this process have of it."""
    total, limit = int(psutil.virtual_memory().total), cgroup.limit_bytes()
    return total if limit is None else min(total, limit)


def available_bytes() -> int:
    """What is left of `memory_bytes` now."""
    available, left = int(psutil.virtual_memory().available), cgroup.available_bytes()
    return available if left is None else min(available, left)


def memory_for_job(*, slots: int, warm: bool) -> int:
    """What each of so many jobs at a time may take: an equal share of what this process leaves, less the trainer that
    waits for the next job where there are such."""
    own = int(psutil.Process().memory_info().rss)
    return max(0, (memory_bytes() - own) // slots - (WARM_BYTES if warm else 0))
